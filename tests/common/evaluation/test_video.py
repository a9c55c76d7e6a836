"""Videos are decoded again and compared with what went in."""

import numpy as np
import pytest

from common.errors import UserError
from common.evaluation.video import cut, frame_count, frame_rate, read_mp4, write_mp4

COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (146, 70, 192)]


def film(n: int) -> list[np.ndarray]:
    """n Atari-sized frames: one colour for ten frames each, and a white bar whose place is the frame's number."""
    frames = []
    for i in range(n):
        frame = np.empty((210, 160, 3), np.uint8)
        frame[:] = COLOURS[i // 10 % len(COLOURS)]
        frame[:40, (i % 16) * 10 : (i % 16) * 10 + 10] = 255
        frames.append(frame)
    return frames


def place(frame: np.ndarray) -> int:
    """Where the white bar is, 0 to 15."""
    return int(frame[5:35].mean(axis=(0, 2)).reshape(16, 10).mean(axis=1).argmax())


def test_frames_come_back(tmp_path):
    frames = film(40)
    assert write_mp4(tmp_path / "episode.mp4", iter(frames)) == 40
    back = list(read_mp4(tmp_path / "episode.mp4"))
    assert len(back) == 40
    assert frame_rate(tmp_path / "episode.mp4") == 15
    assert frame_count(tmp_path / "episode.mp4") == 40
    for i, (given, seen) in enumerate(zip(frames, back, strict=True)):
        assert seen.shape == (210, 160, 3)
        assert place(seen) == i % 16
        # yuv420p at crf 23: flat colours are nearly exact
        assert np.abs(seen[60:].astype(int).mean(axis=(0, 1)) - given[60:].mean(axis=(0, 1))).max() < 6
    assert [p.name for p in tmp_path.iterdir()] == ["episode.mp4"]


def test_small_and_starts_at_once(tmp_path):
    write_mp4(tmp_path / "episode.mp4", film(900))
    data = (tmp_path / "episode.mp4").read_bytes()
    assert len(data) < 300_000  # a minute of play
    assert data.find(b"moov") < data.find(b"mdat")  # the index first: plays before it is read whole
    assert b"avc1" in data


def test_same_frames_same_bytes(tmp_path):
    write_mp4(tmp_path / "a.mp4", film(30))
    write_mp4(tmp_path / "b.mp4", film(30))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_bad_frames_leave_the_old_video(tmp_path):
    path = tmp_path / "episode.mp4"
    write_mp4(path, film(3))
    old = path.read_bytes()
    with pytest.raises(ValueError, match="no frames"):
        write_mp4(path, [])
    with pytest.raises(ValueError, match="even"):
        write_mp4(path, [np.zeros((211, 160, 3), np.uint8)])
    with pytest.raises(ValueError, match="float64"):
        write_mp4(path, [np.zeros((210, 160, 3))])
    with pytest.raises(ValueError, match="frame 2"):
        write_mp4(path, [*film(2), np.zeros((84, 84, 3), np.uint8)])
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["episode.mp4"]


@pytest.mark.parametrize(("where", "first"), [("start", 0), ("middle", 50)])
def test_cut(tmp_path, where, first):
    write_mp4(tmp_path / "long.mp4", film(130))
    assert cut(tmp_path / "long.mp4", tmp_path / "short.mp4", seconds=2, where=where) == 30
    back = list(read_mp4(tmp_path / "short.mp4"))
    assert [place(frame) for frame in back] == [i % 16 for i in range(first, first + 30)]
    assert frame_rate(tmp_path / "short.mp4") == 15
    assert sum(1 for _ in read_mp4(tmp_path / "long.mp4")) == 130


def test_short_video_is_copied_and_may_be_cut_in_place(tmp_path):
    path = tmp_path / "episode.mp4"
    write_mp4(path, film(40))
    assert cut(path, tmp_path / "copy.mp4") == 40
    assert (tmp_path / "copy.mp4").read_bytes() == path.read_bytes()
    assert cut(path, path, seconds=1) == 15
    assert sum(1 for _ in read_mp4(path)) == 15


def test_no_video(tmp_path):
    (tmp_path / "torn.mp4").write_bytes(b"\0" * 1000)
    for name in ("torn.mp4", "absent.mp4"):
        with pytest.raises(UserError, match=rf"{name}.*cannot be read"):
            list(read_mp4(tmp_path / name))
        with pytest.raises(UserError, match=rf"{name}.*cannot be read"):
            cut(tmp_path / name, tmp_path / "out.mp4")
