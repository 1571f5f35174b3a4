"""What the recipe knows of pictures: videos, faces, who is who, landmarks, mouth crops. Training never imports it."""
