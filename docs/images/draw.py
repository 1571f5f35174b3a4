"""Draw the figures of the README: `pipeline.png` (the stages) and `network.png` (the default model), beside this file.

Run     python docs/images/draw.py [FOLDER]

The mouths in pipeline.png are cut from demo_mouths.png; the waveforms are drawn.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch

HERE = Path(__file__).resolve().parent
DPI = 160
TEXT_PT, SMALL_PT = 12.5, 10.5
LINE = "#3c4650"
AUDIO, VISUAL, FUSED, DATA, SCORES = "#dbe9f6", "#fde6cf", "#dff0d8", "#f4f4f2", "#ece3f4"
AUDIO_LINE, VISUAL_LINE = "#2f6db0", "#c7681a"

Point = tuple[float, float]
Box = tuple[float, float, float, float]
"""left, bottom, width, height, in inches"""


def canvas(width: float, height: float) -> Axes:
    """An empty page whose coordinates are inches."""
    figure = plt.figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return axes


def box(axes: Axes, at: Box, title: str, below: str = "", color: str = DATA, text_at: float = 0.5) -> None:
    """A box with a title and smaller lines below it; `text_at` is the height of the text's middle in the box, 0 to 1."""
    left, bottom, width, height = at
    axes.add_patch(FancyBboxPatch((left, bottom), width, height, boxstyle="round,pad=0,rounding_size=0.08",
                                  facecolor=color, edgecolor=LINE, linewidth=1.2))  # fmt: skip
    lines = below.split("\n") if below else []
    title_lines = title.split("\n")
    step, small_step = 0.215, 0.185
    total = step * len(title_lines) + small_step * len(lines)
    top = bottom + height * text_at + total / 2
    for index, line in enumerate(title_lines):
        axes.text(left + width / 2, top - step * (index + 0.5), line, ha="center", va="center", fontsize=TEXT_PT)
    top -= step * len(title_lines)
    for index, line in enumerate(lines):
        axes.text(left + width / 2, top - small_step * (index + 0.5), line, ha="center", va="center",
                  fontsize=SMALL_PT, color="#4a545e")  # fmt: skip


def arrow(axes: Axes, *points: Point, color: str = LINE) -> None:
    """A line through the points with a head at the last one."""
    for start, end in zip(points[:-2], points[1:-1], strict=True):
        axes.plot(*zip(start, end, strict=True), color=color, linewidth=1.5, solid_capstyle="round")
    axes.add_patch(FancyArrowPatch(points[-2], points[-1], arrowstyle="-|>", mutation_scale=14, color=color,
                                   linewidth=1.5, shrinkA=0, shrinkB=0))  # fmt: skip


def badge(axes: Axes, x: float, y: float, number: int) -> None:
    """The number of the stage that makes what the box holds."""
    axes.add_patch(Circle((x, y), 0.17, facecolor=LINE, edgecolor="white", linewidth=1.5, zorder=5))
    axes.text(x, y - 0.01, str(number), ha="center", va="center", color="white", fontsize=TEXT_PT, weight="bold", zorder=6)


def wave(axes: Axes, at: Box, seed: int, color: str) -> None:
    """Something that looks like speech: noise with the envelope of syllables."""
    left, bottom, width, height = at
    rng = np.random.default_rng(seed)
    time = np.linspace(0, 1, 260)
    envelope = np.interp(time, np.linspace(0, 1, 15), rng.uniform(0.05, 1, 15) * rng.choice([0.15, 1, 1], 15))
    extent = envelope * rng.uniform(0.35, 1, time.size) * height / 2
    axes.vlines(left + time * width, bottom + height / 2 - extent, bottom + height / 2 + extent, color=color, linewidth=0.9)


def draw_pipeline(path: Path) -> None:
    """From a corpus or a video to scores, with the numbers of the stages."""
    axes = canvas(10.6, 4.15)
    width, gap, left = 1.68, 0.45, 0.25
    x = [left + column * (width + gap) for column in range(5)]
    upper, lower, height, tall = 2.55, 0.62, 1.3, 1.3

    box(axes, (x[0], upper, width, height), "corpus\nor video", "talking faces")
    box(axes, (x[1], upper, width, height), "mouth crops", "96 × 96, 25 fps", VISUAL, text_at=0.3)
    mouths = plt.imread(HERE / "demo_mouths.png")
    for index, column in enumerate((113, 286, 459)):
        start = x[1] + 0.12 + index * 0.49
        mouth = mouths[144:218, column + 5 : column + 79, :3]  # without the time in its corner
        axes.imshow(mouth, extent=(start, start + 0.46, upper + 0.72, upper + 1.18), zorder=4)
    box(axes, (x[2], upper, width, height), "visual\nfrontend", "pretrained, frozen", VISUAL)
    box(axes, (x[3], upper, width, height), "visual\nembeddings", "kept in dump/", VISUAL)
    box(axes, (x[4], upper, width, height), "scores", "SI-SNRi, SDRi,\nPESQ, STOI", SCORES)

    box(axes, (x[0], lower, width, tall), "manifests", "train, val, test,\nutterances")
    wide = x[2] + width - x[1]
    box(axes, (x[1], lower, wide, tall), "mixture", "16 kHz; in training drawn again in every epoch", AUDIO, text_at=0.22)
    wave(axes, (x[1] + 0.2, lower + 0.58, wide - 0.4, 0.62), 3, AUDIO_LINE)
    box(axes, (x[3], lower, width, tall), "AV-DPRNN", "all faces\nin one pass", FUSED)
    box(axes, (x[4], lower, width, tall), "estimates", "one for each face", AUDIO, text_at=0.22)
    wave(axes, (x[4] + 0.2, lower + 0.92, width - 0.4, 0.3), 5, AUDIO_LINE)
    wave(axes, (x[4] + 0.2, lower + 0.58, width - 0.4, 0.3), 8, VISUAL_LINE)

    middle_upper, middle_lower = upper + height / 2, lower + tall / 2
    for column in range(3):
        arrow(axes, (x[column] + width, middle_upper), (x[column + 1], middle_upper), color=VISUAL_LINE)
    arrow(axes, (x[0] + width / 2, upper), (x[0] + width / 2, lower + tall), color=AUDIO_LINE)
    arrow(axes, (x[0] + width, middle_lower), (x[1], middle_lower), color=AUDIO_LINE)
    arrow(axes, (x[2] + width, middle_lower), (x[3], middle_lower), color=AUDIO_LINE)
    arrow(axes, (x[3] + width / 2, upper), (x[3] + width / 2, lower + tall), color=VISUAL_LINE)
    arrow(axes, (x[3] + width, middle_lower), (x[4], middle_lower))
    arrow(axes, (x[4] + width / 2, lower + tall), (x[4] + width / 2, upper))

    badge(axes, x[0], lower + tall, 0)
    badge(axes, x[1], upper + height, 1)
    badge(axes, x[3], upper + height, 2)
    badge(axes, x[3], lower + tall, 3)
    badge(axes, x[4], lower + tall, 4)
    badge(axes, x[4], upper + height, 5)

    stages = ("prepare", "mouths", "embeddings", "train", "separate", "score")
    pitch = (x[4] + width - x[0]) / len(stages)
    for number, stage in enumerate(stages):
        start = x[0] + number * pitch + 0.17
        badge(axes, start, 0.27, number)
        axes.text(start + 0.27, 0.265, stage, ha="left", va="center", fontsize=TEXT_PT)
    axes.figure.savefig(path, dpi=DPI)
    plt.close(axes.figure)


def draw_network(path: Path) -> None:
    """The default model, `local_models/av_tfdprnn.py` in the frame of `local_models/separator.py`."""
    axes = canvas(11.4, 6.0)
    middle = 3.1  # between the streams
    height, block = 1.0, 0.82
    lanes = (middle + 0.13, middle - 0.13 - block)  # bottoms of the streams of face 1 and face 2
    bottom = middle - height / 2

    # Columns: left edges and widths.
    stft, split, audio = (0.25, 1.12), (1.67, 1.2), (3.2, 1.25)
    film1, block1, exchange, film2, block2 = (4.98, 0.66), (5.79, 0.8), (6.74, 0.86), (7.75, 0.66), (8.56, 0.8)
    merge, back = (9.79, 1.32), (9.79, 1.32)

    axes.add_patch(FancyBboxPatch((4.83, lanes[1] - 0.14), 4.68, 2 * block + 0.54, boxstyle="round,pad=0,rounding_size=0.1",
                                  facecolor="#f7fbf4", edgecolor="#9fb894", linewidth=1.2, linestyle=(0, (4, 3))))  # fmt: skip
    axes.text(4.95, lanes[1] - 0.3, "a stream for each face, the same weights for all", ha="left", va="center",
              fontsize=SMALL_PT, color="#55704a")  # fmt: skip

    box(axes, (stft[0], bottom, stft[1], height), "STFT", "32 ms\nevery 16 ms", AUDIO)
    box(axes, (split[0], bottom, split[1], height), "band split", "16 bands,\n48 channels", AUDIO)
    box(axes, (audio[0], bottom, audio[1], height), "dual-path\nblocks × 2", "mixture only", AUDIO)
    for face, lane in enumerate(lanes):
        box(axes, (film1[0], lane, film1[1], block), "FiLM", f"face {face + 1}", VISUAL)
        box(axes, (block1[0], lane, block1[1], block), "dual-\npath", "", FUSED)
        box(axes, (film2[0], lane, film2[1], block), "FiLM", f"face {face + 1}", VISUAL)
        box(axes, (block2[0], lane, block2[1], block), "dual-\npath", "", FUSED)
        y = lane + block / 2
        fork = 4.64
        arrow(axes, (audio[0] + audio[1], middle), (fork, middle), (fork, y), (film1[0], y), color=AUDIO_LINE)
        for (start, wide), (end, _) in ((film1, block1), (block1, exchange), (exchange, film2), (film2, block2)):
            arrow(axes, (start + wide, y), (end, y))
        join = 9.6
        arrow(axes, (block2[0] + block2[1], y), (join, y), (join, middle), (merge[0], middle))
    both = lanes[0] + block - lanes[1]
    box(axes, (exchange[0], lanes[1], exchange[1], both), "ex-\nchange", "mean of\nthe other\nstreams", FUSED)
    box(axes, (merge[0], bottom, merge[1], height), "band merge", "complex masks,\none per face", AUDIO)

    # The visual branch, above.
    top, tall = 4.95, 0.86
    box(axes, (0.25, top, 2.62, tall), "visual embeddings", "of each face, 25 a second", VISUAL)
    box(axes, (3.2, top, 2.55, tall), "visual branch", "projection, 3 residual blocks", VISUAL)
    box(axes, (6.08, top, 3.43, tall), "resampling to the grid's frames", "own features and mean of the others'", VISUAL)
    arrow(axes, (2.87, top + tall / 2), (3.2, top + tall / 2), color=VISUAL_LINE)
    arrow(axes, (5.75, top + tall / 2), (6.08, top + tall / 2), color=VISUAL_LINE)
    rail = 4.57
    start = (film1[0] + film2[0] + film2[1]) / 2
    for film in (film1, film2):
        x = film[0] + film[1] / 2
        arrow(axes, (start, top), (start, rail), (x, rail), (x, lanes[0] + block), color=VISUAL_LINE)

    # The mixture's spectrum goes round the masker.
    axes.text(stft[0] + stft[1] / 2, 4.13, "mixture", ha="center", va="center", fontsize=TEXT_PT)
    arrow(axes, (stft[0] + stft[1] / 2, 3.97), (stft[0] + stft[1] / 2, bottom + height), color=AUDIO_LINE)
    arrow(axes, (stft[0] + stft[1], middle), (split[0], middle), color=AUDIO_LINE)
    arrow(axes, (split[0] + split[1], middle), (audio[0], middle), color=AUDIO_LINE)
    times = (back[0] + back[1] / 2, 1.6)
    stft_middle = stft[0] + stft[1] / 2
    arrow(axes, (stft_middle, bottom), (stft_middle, times[1]), (times[0] - 0.19, times[1]), color=AUDIO_LINE)
    axes.text(stft_middle + 0.12, times[1] + 0.17, "spectrum of the mixture", ha="left", va="center",
              fontsize=SMALL_PT, color="#4a545e")  # fmt: skip
    arrow(axes, (times[0], bottom), (times[0], times[1] + 0.19))
    axes.add_patch(Circle(times, 0.19, facecolor="white", edgecolor=LINE, linewidth=1.2, zorder=5))
    axes.text(*times, "×", ha="center", va="center", fontsize=16, zorder=6)
    box(axes, (back[0], 0.2, back[1], 0.92), "inverse STFT", "an estimate\nfor each face", AUDIO)
    arrow(axes, (times[0], times[1] - 0.19), (times[0], 1.12))

    # What a dual-path block does.
    grid_left, grid_bottom, cell, columns, rows = 1.05, 0.25, 0.2, 9, 5
    for column in range(columns):
        for row in range(rows):
            color = "#bcd5ec" if column == 2 else "#cfe6c3" if row == 1 else "white"
            axes.add_patch(plt.Rectangle((grid_left + column * cell, grid_bottom + row * cell), cell, cell, facecolor=color,
                                         edgecolor="#9aa4ad", linewidth=0.6))  # fmt: skip
    axes.text(grid_left - 0.1, grid_bottom + rows * cell / 2, "bands", ha="right", va="center", fontsize=SMALL_PT)
    axes.text(grid_left + columns * cell + 0.1, grid_bottom + 0.5 * cell, "frames", ha="left", va="center", fontsize=SMALL_PT)
    text_left = grid_left + columns * cell + 0.85
    axes.text(text_left, 1.1, "dual-path block", ha="left", va="center", fontsize=TEXT_PT)
    for y, color, text in ((0.77, "#bcd5ec", "BLSTM along the bands of each frame,"),
                           (0.46, "#cfe6c3", "then along the frames of each band, same weights for all bands")):  # fmt: skip
        axes.add_patch(plt.Rectangle((text_left, y - 0.09), 0.18, 0.18, facecolor=color, edgecolor="#9aa4ad", linewidth=0.6))
        axes.text(text_left + 0.29, y, text, ha="left", va="center", fontsize=SMALL_PT)
    axes.figure.savefig(path, dpi=DPI)
    plt.close(axes.figure)


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    draw_pipeline(folder / "pipeline.png")
    draw_network(folder / "network.png")
