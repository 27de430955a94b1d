"""Which files paths, folders and patterns name."""

from __future__ import annotations

import pytest

from accuracy_booster.data.found_images import find_images


@pytest.fixture
def photos(make_folder):
    root = make_folder({"b": 1, "a/deep": 2}, name="photos")
    (root / "a" / "notes.txt").write_text("no image")
    (root / "a" / "._x.png").write_bytes(b"left by macOS")
    return root


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*", ["a/deep/000.png", "a/deep/001.png", "b/000.png"]),
        ("**", ["a/deep/000.png", "a/deep/001.png", "b/000.png"]),
        ("**/*.png", ["a/deep/000.png", "a/deep/001.png", "b/000.png"]),
        ("?/*.png", ["b/000.png"]),
        ("a/deep/00[1-9].png", ["a/deep/001.png"]),
    ],
)
def test_patterns_that_no_shell_has_expanded(photos, pattern, found):
    names = find_images([photos / pattern])
    assert [name.removeprefix(f"{photos}/") for name in names] == found


def test_a_pattern_without_images_and_a_name_like_a_pattern(photos):
    with pytest.raises(ValueError, match=r"a/\*.txt' matches no images, only 1 path that is none"):
        find_images([photos / "a/*.txt"])
    with pytest.raises(ValueError, match=r"\*.webp' matches no images; check"):
        find_images([photos / "*.webp"])
    (photos / "b/000.png").rename(photos / "b/[1].png")
    assert find_images([photos / "b/[1].png"]) == [str(photos / "b/[1].png")]
