"""Episodes as H.264 video: small, and every browser plays it. 15 frames a second are the decisions at frame skip 4."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
from av.video.frame import PictureType

from common.errors import UserError

CRF = "23"  # quality; 50 to 260 kB a minute of play


def write_mp4(path: Path, frames: Iterable[np.ndarray], fps: int = 15) -> int:
    """Encodes RGB frames, uint8 (height, width, 3) with even sides, all of one size; returns their number.

    Written under a temporary name and renamed, so that `path` is never half a video. Raises ValueError for no frames or
    frames of another kind.
    """

    def checked() -> Iterator[av.VideoFrame]:
        shape = None
        for count, frame in enumerate(frames):
            if shape is None:
                shape = frame.shape
                if (
                    frame.dtype != np.uint8
                    or len(shape) != 3
                    or shape[2] != 3
                    or shape[0] % 2
                    or shape[1] % 2
                ):
                    raise ValueError(f"frames must be uint8 (even, even, 3), not {frame.dtype} {shape}")
            if frame.shape != shape or frame.dtype != np.uint8:
                raise ValueError(f"frame {count} is {frame.dtype} {frame.shape}; the first was uint8 {shape}")
            yield av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")

    return _encode(Path(path), checked(), fps)


def _encode(path: Path, frames: Iterable[av.VideoFrame], fps: int) -> int:
    temporary = path.with_name(f".{path.name}.tmp")
    count = 0
    try:
        with av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as file:
            stream = file.add_stream("libx264", rate=fps, options={"crf": CRF})
            stream.pix_fmt = (
                "yuv420p"  # what browsers play; halves the colours' resolution, hence the even sides
            )
            # one thread: the same frames give the same bytes on any number of cores
            stream.codec_context.thread_count = 1
            for frame in frames:
                if not count:
                    stream.height, stream.width = frame.height, frame.width
                file.mux(stream.encode(frame))
                count += 1
            if not count:
                raise ValueError("no frames to encode")
            file.mux(stream.encode())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _decode(path: Path) -> Iterator[av.VideoFrame]:
    with av.open(str(path)) as file:
        file.streams.video[
            0
        ].codec_context.thread_count = 1  # a small picture: more threads cost more than they bring
        yield from file.decode(video=0)


def read_mp4(path: Path) -> Iterator[np.ndarray]:
    """The frames of a video, RGB uint8 (height, width, 3). UserError for a file that is missing or no video."""
    try:
        for frame in _decode(path):
            yield frame.to_ndarray(format="rgb24")
    except (OSError, ValueError, IndexError) as error:  # PyAV's errors derive from these
        raise _unreadable(path, error) from None


def frame_rate(path: Path) -> float:
    """Frames per second. UserError as above."""
    try:
        with av.open(str(path)) as file:
            return float(file.streams.video[0].average_rate)
    except (OSError, ValueError, IndexError, TypeError) as error:
        raise _unreadable(path, error) from None


def frame_count(path: Path) -> int:
    """Number of frames, from the file's index where it says so. UserError as above."""
    try:
        with av.open(str(path)) as file:
            return file.streams.video[0].frames or sum(1 for _ in file.decode(video=0))
    except (OSError, ValueError, IndexError) as error:
        raise _unreadable(path, error) from None


def seconds_within(path: Path, size: int) -> float:
    """How many seconds of a video have `size` bytes, at its mean rate. UserError as above."""
    return frame_count(path) / frame_rate(path) * size / Path(path).stat().st_size


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path} cannot be read as a video ({error}); evaluate the run again to have it written anew"
    )


def cut(source: Path, target: Path, seconds: float = 45, where: str = "start") -> int:
    """Writes the first (`where="start"`) or middle (`where="middle"`) seconds of a video; returns the number of frames.

    A shorter video is copied whole. `target` may be `source`.
    """
    if where not in ("start", "middle"):
        raise ValueError(f"where={where!r}; allowed: start, middle")
    fps = frame_rate(source)
    keep = int(seconds * fps)
    total = frame_count(source)
    if total <= keep:
        if Path(source) != Path(target):
            temporary = Path(target).with_name(f".{Path(target).name}.tmp")
            temporary.write_bytes(Path(source).read_bytes())
            os.replace(temporary, target)
        return total
    first = (total - keep) // 2 if where == "middle" else 0

    def part() -> Iterator[av.VideoFrame]:
        for number, frame in enumerate(islice(_decode(source), first, first + keep)):
            frame.pts, frame.time_base = number, Fraction(1, round(fps))  # counted anew
            frame.pict_type = PictureType.NONE  # for the encoder to choose
            yield frame

    return _encode(Path(target), part(), round(fps))
