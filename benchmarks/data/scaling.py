"""The height and width to which the images of a folder are scaled, and what is said of it."""

from collections.abc import Collection, Mapping

SIZE = 224  # pixels: the default, unless the files agree on a smaller square

Size = tuple[int, int]  # width and height of a file, in pixels


def default_size(sizes: Collection[Size]) -> int:
    """The height and width that all files share, if they are squares of at most `SIZE` pixels; else `SIZE`."""
    if len(sizes) == 1:
        ((width, height),) = sizes
        if width == height <= SIZE:
            return width
    return SIZE


def of_files(sizes: Mapping[Size, int]) -> str:
    """Which files images come from, for a reader to whom the images are of a wrong size."""
    return f", of files of {_named(sizes)} pixels (--set data.size=N scales them to NxN)"


def taken(sizes: Mapping[Size, int]) -> str:
    """A line on files that agree on the size which they get by default, and empty for others."""
    if len(sizes) == 1 and sizes.keys() == {(default_size(sizes),) * 2}:
        return f"all files are {_named(sizes)} and taken as they are; --set data.size=N scales them to NxN"
    return ""


def enlarged(sizes: Mapping[Size, int], size: int) -> str:
    """A line on images of which a side has fewer than `size` pixels, empty if there are none.

    Bilinear images of k times the height and width are about k times as far apart in L2.

    Args:
        sizes: how many files there are of each size.
        size: height and width to which they are scaled.
    """
    small = {sides: count for sides, count in sizes.items() if min(sides) < size}
    if not small:
        return ""
    least = min(min(sides) for sides in small)
    return (
        f"{sum(small.values())} of {sum(sizes.values())} images, of {_named(small)} pixels, are scaled up to"
        f" {size}x{size}, and L2 distances with them: --set data.size={least} enlarges none"
    )


def _named(sizes: Collection[Size]) -> str:
    """The least and the largest, by the shorter side."""
    ordered = sorted(sizes, key=lambda sides: (min(sides), max(sides)))
    return " to ".join(f"{width}x{height}" for width, height in dict.fromkeys((ordered[0], ordered[-1])))
