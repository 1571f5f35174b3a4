"""Visual frontends, their checkpoints, and the visual embeddings that they give, stored."""
