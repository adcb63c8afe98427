"""Region profiles, and what is wrong with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fetalclip_edge as fe
from fetalclip_edge.errors import ProfileError, ProfileNotFoundError
from fetalclip_edge.results import Region

GOOD = """\
name: A scanner
frame: {width: 800, height: 600}
region: [100, 20, 600, 500]
masked:
  - [100, 20, 120, 30]
  - [640, 480, 60, 40]
"""


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "profile.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_profile_is_read(tmp_path: Path) -> None:
    profile = fe.read_profile(written(tmp_path, GOOD))
    assert (profile.name, profile.width, profile.height) == ("A scanner", 800, 600)
    assert profile.region == Region(100, 20, 600, 500)
    assert profile.masked == (Region(100, 20, 120, 30), Region(640, 480, 60, 40))
    mask = profile.mask()
    assert mask is not None
    assert mask.shape == (600, 800)
    assert np.count_nonzero(mask == 0) == 120 * 30 + 60 * 40
    assert mask[20, 100] == mask[519, 699] == 0
    assert mask[20, 220] == mask[0, 0] == 255


def test_nothing_need_be_masked(tmp_path: Path) -> None:
    text = "".join(GOOD.splitlines(keepends=True)[:3])
    for more in ("", "masked:\n", "masked: []\n"):
        profile = fe.read_profile(written(tmp_path, text + more))
        assert profile.masked == ()
        assert profile.mask() is None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("name: A scanner", "name: 3", "name must be a text, not 3"),
        ("name: A scanner", "", "lacks name"),
        ("name:", "nam:", "lacks name"),
        ("masked:", "maskd:", "unknown keys: maskd"),
        ("{width: 800, height: 600}", "[800, 600]", "frame must be a mapping with width, height"),
        ("{width: 800, height: 600}", "{width: 800}", "frame lacks height"),
        ("width: 800", "width: 800.5", "width must be a whole number of pixels, 1 to 16384"),
        ("width: 800", "width: true", "width must be a whole number"),
        ("height: 600", "height: 0", "height must be a whole number"),
        ("[100, 20, 600, 500]", "[100, 20, 600]", "region must be four whole numbers"),
        ("[100, 20, 600, 500]", "wide", r"region must be \[x, y, width, height\], not 'wide'"),
        ("[100, 20, 600, 500]", "[100, 20, 0, 500]", "region must have a place and a size"),
        ("[100, 20, 600, 500]", "[300, 20, 600, 500]", "beyond the frame of 800x600"),
        ("- [640, 480, 60, 40]", "- [640, 590, 60, 40]", "masked, rectangle 2 .* beyond the frame"),
        ("- [640, 480, 60, 40]", "- 7", "masked, rectangle 2 must be"),
        ("name: A scanner", "name: [", "no YAML in line"),
        ("name: A scanner", "name: !!python/name:os.system", "no YAML in line 1"),
        (GOOD, "", "it must be a mapping with name, frame, region, masked, not None"),
        (GOOD, "[1, 2]", "it must be a mapping"),
    ],
)
def test_each_mistake_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = written(tmp_path, GOOD.replace(old, new))
    with pytest.raises(ProfileError, match=said) as caught:
        fe.read_profile(path)
    assert str(path) in str(caught.value)


def test_masked_must_be_a_list(tmp_path: Path) -> None:
    text = "".join(GOOD.splitlines(keepends=True)[:3]) + "masked: all\n"
    with pytest.raises(ProfileError, match="masked must be a list of rectangles, not 'all'"):
        fe.read_profile(written(tmp_path, text))


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ProfileNotFoundError, match="there is no such file"):
        fe.read_profile(tmp_path / "none.yaml")
    with pytest.raises(ProfileError, match="no UTF-8"):
        fe.read_profile(written(tmp_path, b"name: \xff\n"))
    with pytest.raises(ProfileError, match="cannot be read"):
        fe.read_profile(tmp_path)
    with pytest.raises(ProfileError, match="too large"):
        fe.read_profile(written(tmp_path, "#" * (1 << 21)))


def test_yaml_is_loaded_by_who_has_a_profile(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    code = (
        "import sys, fetalclip_edge.cli as cli; assert 'yaml' not in sys.modules; "
        f"import fetalclip_edge as fe; fe.read_profile({str(path)!r}); assert 'yaml' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_profile_in_the_guide_is_a_good_one(repository: Path, tmp_path: Path) -> None:
    guide = (repository / "docs" / "sector.md").read_text()
    text = guide.partition("```yaml\n")[2].partition("```")[0]
    assert fe.read_profile(written(tmp_path, text)).masked
