"""What the recipe knows of files: manifests, audio, mouth crops, mixtures, cached embeddings. No network lives here."""
