"""Networks only: `nn.Module` code without input, output or training.

`configs` needs no torch; the networks are in `local_models.networks`.
"""
