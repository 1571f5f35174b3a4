"""Facts that hold in the whole recipe: splits, rates, sizes, and the suffixes of files. Imports nothing."""

SPLITS = ("train", "val", "test")
SAMPLE_RATE_HZ = 16000  # of all sound that the recipe prepares
VIDEO_FPS = 25  # of all mouth crops and visual embeddings
MOUTH_SIZE = 96  # pixels, height and width of a mouth crop
ALIGNMENTS = ("centred8", "forward5")  # of mouth crops, see utils/video/alignment.py; the first is the default

LOSSLESS_SUFFIXES = (".wav", ".flac")  # of clips, noise and room responses
AUDIO_SUFFIXES = (*LOSSLESS_SUFFIXES, ".mp3", ".ogg")  # what soundfile reads
CONVERTIBLE_SUFFIXES = (*AUDIO_SUFFIXES, ".m4a", ".aac")  # what PyAV turns into wav
VIDEO_SUFFIXES = tuple(
    f".{name}"
    for name in (
        "mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "mpe", "m2v", "vob", "ts", "mts", "m2ts", "flv", "f4v",
        "wmv", "asf", "ogv", "3gp", "3g2",
    )
)  # fmt: skip
FACE_COLOURS = ((64, 220, 96), (255, 170, 50), (90, 180, 255), (255, 120, 170), (240, 230, 80), (190, 150, 255))
"""RGB of what marks face 1, 2, ... in pictures; with more faces they begin again."""
VIEWS = ("centre", "flip", *(f"varied{number}" for number in range(1, 10)))
"""What a visual frontend is shown of a mouth crop: its centre, the mirror image of that, or the crop moved, scaled, turned,
brightened and perhaps mirrored, for each number in another way: for training, what other cameras would have seen."""
