"""Episodes as H.264 video: small, and every browser plays it. 15 frames a second are the decisions at frame skip 4."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np

from common.errors import UserError

CRF = "23"  # quality; 50 to 260 kB a minute of play


def write_mp4(path: Path, frames: Iterable[np.ndarray], fps: int = 15) -> int:
    """Encodes RGB frames, uint8 (height, width, 3) with even sides, all of one size; returns their number.

    Written under a temporary name and renamed, so that `path` is never half a video. Raises ValueError for no frames or
    frames of another kind.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    count = 0
    try:
        with av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as file:
            stream = file.add_stream("libx264", rate=fps, options={"crf": CRF})
            stream.pix_fmt = "yuv420p"  # what browsers play; halves the colours' resolution, hence the even sides
            # one thread: the same frames give the same bytes on any number of cores
            stream.codec_context.thread_count = 1
            shape = None
            for frame in frames:
                if shape is None:
                    shape = frame.shape
                    if frame.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or shape[0] % 2 or shape[1] % 2:
                        raise ValueError(f"frames must be uint8 (even, even, 3), not {frame.dtype} {shape}")
                    stream.height, stream.width = shape[:2]
                if frame.shape != shape or frame.dtype != np.uint8:
                    raise ValueError(f"frame {count} is {frame.dtype} {frame.shape}; the first was uint8 {shape}")
                file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
                count += 1
            if not count:
                raise ValueError("no frames to encode")
            file.mux(stream.encode())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def read_mp4(path: Path) -> Iterator[np.ndarray]:
    """The frames of a video, RGB uint8 (height, width, 3). UserError for a file that is missing or no video."""
    try:
        with av.open(str(path)) as file:
            for frame in file.decode(video=0):
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


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} cannot be read as a video ({error}); evaluate the run again to have it written anew")


def cut(source: Path, target: Path, seconds: float = 45, where: str = "start") -> int:
    """Writes the first (`where="start"`) or middle (`where="middle"`) seconds of a video; returns the number of frames.

    A shorter video is copied whole. `target` may be `source`.
    """
    if where not in ("start", "middle"):
        raise ValueError(f"where={where!r}; allowed: start, middle")
    fps = frame_rate(source)
    keep = int(seconds * fps)
    total = sum(1 for _ in read_mp4(source))
    if total <= keep:
        if Path(source) != Path(target):
            temporary = Path(target).with_name(f".{Path(target).name}.tmp")
            temporary.write_bytes(Path(source).read_bytes())
            os.replace(temporary, target)
        return total
    first = (total - keep) // 2 if where == "middle" else 0
    wanted = (frame for i, frame in enumerate(read_mp4(source)) if first <= i < first + keep)
    return write_mp4(target, wanted, round(fps))
