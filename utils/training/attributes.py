"""Losses on attributes: a voice is to be like the face that it belongs to, and like itself in another mixture.

Attributes of voices and faces are vectors of length 1; their distance is 1 minus the cosine.
"""

import torch


def crossmodal_loss(voices: torch.Tensor, faces: torch.Tensor, speakers: torch.Tensor, margin: float) -> torch.Tensor:
    """A voice is to be nearer to its own face than to each other face of its mixture, by the margin ([1], Eq. 5).

    Args:
        voices, faces: (batch, n_src, chan); the voices are those of the estimates, in the order of the faces.
        speakers: (batch, n_src), whose they are; -1 is left out, and so are pairs of one person.
        margin: cosine distance.

    Returns:
        A scalar; zero where nothing can be compared.

    References
        [1] Gao, Grauman, "VisualVoice: Audio-visual speech separation with cross-modal consistency", CVPR 2021.
    """
    distances = 1 - torch.einsum("bic,bkc->bik", voices, faces)
    own = distances.diagonal(dim1=1, dim2=2).unsqueeze(2)  # (batch, n_src, 1)
    known = speakers >= 0
    counts = known.unsqueeze(2) & known.unsqueeze(1) & (speakers.unsqueeze(2) != speakers.unsqueeze(1))
    return _mean((own - distances + margin).relu(), counts)


def coseparation_loss(voices: torch.Tensor, speakers: torch.Tensor, margin: float) -> torch.Tensor:
    """A voice is to be nearer to that of the same person in another mixture than to the others of both mixtures ([1], Eq. 6).

    Args:
        voices: (batch, n_src, chan), of the estimates.
        speakers: (batch, n_src), whose they are; -1 is left out.
        margin: cosine distance.

    Returns:
        A scalar; zero where no speaker is in two mixtures.
    """
    n_src = speakers.shape[1]
    flat, whose = voices.flatten(0, 1), speakers.flatten()
    mixture = torch.arange(len(flat), device=flat.device) // n_src
    distances = 1 - flat @ flat.T
    same = (whose[:, None] == whose) & (whose >= 0)
    positive = same & (mixture[:, None] != mixture)  # (anchor, positive)
    near = mixture[:, None] == mixture
    negative = ~same & (whose >= 0)  # (anchor, negative)
    beside = near[:, None, :] | near[None, :, :]  # (anchor, positive, negative): in the mixture of one of the two
    counts = positive[:, :, None] & negative[:, None, :] & beside
    return _mean((distances[:, :, None] - distances[:, None, :] + margin).relu(), counts)


def _mean(values: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    return (values * counts).sum() / counts.sum().clamp(min=1)
