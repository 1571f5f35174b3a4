"""Pictures: videos, faces, who is who, landmarks, mouth crops. Training never imports it."""
