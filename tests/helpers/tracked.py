"""Videos as a tracker sees them: rectangles that walk, whose brightness tells the frame, and files of their boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import av
import numpy as np
from PIL import Image

HEIGHT, WIDTH, FRAMES = 96, 128, 12
BOX = (16, 32)  # width and height of a rectangle
STEP = 15  # of brightness, from frame to frame


def left_of(track: int, frame: int) -> int:
    """Left edge of a track's rectangle in a frame, counted from 0."""
    return 24 * (track % 4) + frame


def scene(frame: int, tracks: Iterable[int] = (1, 2)) -> np.ndarray:
    """A frame: grey, with a rectangle a track, red for odd tracks and green for others."""
    picture = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    width, height = BOX
    for track in tracks:
        colour = [0, 0, 0]
        colour[(track + 1) % 2] = 40 + STEP * frame
        picture[32 : 32 + height, left_of(track, frame) : left_of(track, frame) + width] = colour
    return picture


def frame_shown(crop: np.ndarray) -> tuple[int, int]:
    """Track (1 or 2) and frame, from 0, that the middle of a crop shows."""
    height, width, _ = crop.shape
    red, green, _ = crop[height // 2, width // 2].astype(int)
    return (1 if red > green else 2), round((max(red, green) - 40) / STEP)


def write_video(path: Path, frames: int = FRAMES, tracks: Iterable[int] = (1, 2)) -> None:
    """A video of scenes: lossless in .mkv, H.264 in .mp4."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264" if path.suffix == ".mp4" else "ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv444p"
        for frame in range(frames):
            for packet in stream.encode(av.VideoFrame.from_ndarray(scene(frame, tracks), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def write_images(folder: Path, frames: int = FRAMES, first: int = 1) -> None:
    """The same scenes as a folder of images, numbered from `first`."""
    folder.mkdir(parents=True)
    for frame in range(frames):
        Image.fromarray(scene(frame)).save(folder / f"{frame + first:06d}.png")


def mot_text(tracks: Iterable[int] = (1, 2), frames: int = FRAMES, first: int = 1) -> str:
    """A tracker's file: lines sorted by frame, as MOTChallenge writes them."""
    return "".join(
        f"{frame + first},{track},{left_of(track, frame)},32,{BOX[0]},{BOX[1]},1,-1,-1,-1\n"
        for frame in range(frames)
        for track in tracks
    )


def write_source(
    source: Path,
    cameras: Iterable[str] = ("door", "yard"),
    identities: Mapping[int, str] | None = None,
    write: Callable[[Path], None] = write_video,
    ending: str = ".mkv",
) -> Path:
    """A folder to import: a video and a file of boxes for each camera, and the two tables."""
    source.mkdir(parents=True)
    names = {1: "ada", 2: "bo"} if identities is None else identities
    videos, people = ["camera,video,tracks"], ["video,track,identity"]
    for camera in cameras:
        write(source / f"{camera}{ending}")
        (source / f"{camera}.txt").write_text(mot_text(names))
        videos.append(f"{camera},{camera}{ending},{camera}.txt")
        people += [f"{camera},{track},{name}" for track, name in names.items()]
    (source / "videos.csv").write_text("\n".join(videos))
    (source / "identities.csv").write_text("\n".join(people))
    return source
