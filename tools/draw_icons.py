"""Draw the icons of `webapp/static/media`: white figures on coloured tiles, 128 pixels square. Owns their look.

Not part of the product: the images are committed. To change one, `pip install pillow resvg_py` somewhere and run
`python tools/draw_icons.py webapp/static/media`.
"""

from __future__ import annotations

import importlib
import io
import sys
from pathlib import Path

_SIDE = 128

# Gradients from the upper left to the lower right.
_BLUE = ("#5aa9f7", "#2f6fde")
_GREEN = ("#4fd08a", "#1fa268")
_ORANGE = ("#ffb45c", "#f07f2b")
_PURPLE = ("#a78bf5", "#6d4fd8")
_TEAL = ("#45cfd0", "#1a93a6")
_RED = ("#ff8b86", "#e2504f")
_GREY = ("#b9c4d3", "#8695aa")

_LINE = 'fill="none" stroke="#fff" stroke-width="{0}" stroke-linecap="round" stroke-linejoin="round"'


def _line(path: str, width: float = 7) -> str:
    return f'<path d="{path}" {_LINE.format(width)}/>'


def _shape(path: str, extra: str = "") -> str:
    return f'<path d="{path}" fill="#fff" {extra}/>'


def _person(x: float, y: float, scale: float = 1, opacity: float = 1) -> str:
    """A head and shoulders; x, y: the middle of the shoulders' lower edge."""
    return (
        f'<g transform="translate({x} {y}) scale({scale})" fill="#fff" opacity="{opacity}">'
        '<circle cx="0" cy="-42" r="15"/>'
        '<path d="M-28 0v-5a20 17 0 0 1 20-17h16a20 17 0 0 1 20 17v5a4 4 0 0 1-4 4h-48a4 4 0 0 1-4-4z"/></g>'
    )


def _bubble(x: float, y: float, width: float, height: float, opacity: float = 1) -> str:
    """A speech bubble with its tail at the lower left."""
    r = 14
    return _shape(
        f"M{x + r} {y}h{width - 2 * r}a{r} {r} 0 0 1 {r} {r}v{height - 2 * r}a{r} {r} 0 0 1-{r} {r}"
        f"h-{width - 60}l-15 14a3 3 0 0 1-5-2v-12h-{26 - r}a{r} {r} 0 0 1-{r}-{r}v-{height - 2 * r}a{r} {r} 0 0 1 {r}-{r}z",
        f'opacity="{opacity}"',
    )


def _ink(path: str, colour: str, width: float = 7) -> str:
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-linecap="round" stroke-linejoin="round"/>'


def _dots(colour: str, y: float, *xs: float) -> str:
    return "".join(f'<circle cx="{x}" cy="{y}" r="5" fill="{colour}"/>' for x in xs)


def _finder(x: float, y: float) -> str:
    """One of the three squares by which a QR code is found."""
    return (
        f'<rect x="{x}" y="{y}" width="27" height="27" rx="6" {_LINE.format(6.5)}/>'
        f'<rect x="{x + 9.5}" y="{y + 9.5}" width="8" height="8" rx="2" fill="#fff"/>'
    )


# Path under webapp/static/media: colours, figure.
ICONS: dict[str, tuple[tuple[str, str], str]] = {
    "user.jpg": (_GREY, _person(64, 104, 1.28)),
    "group.png": (_BLUE, _person(38, 92, 0.72, 0.72) + _person(90, 92, 0.72, 0.72) + _person(64, 101, 1)),
    "kefu.png": (
        _TEAL,
        _line("M33 70v-8a31 31 0 0 1 62 0v8")
        + '<rect x="26" y="64" width="17" height="27" rx="8" fill="#fff"/>'
        + '<rect x="85" y="64" width="17" height="27" rx="8" fill="#fff"/>'
        + _line("M94 92c-2 9-9 13-20 13", 6)
        + '<circle cx="68" cy="105" r="6.5" fill="#fff"/>',
    ),
    "img/grouplist.png": (
        _BLUE,
        _person(45, 88, 0.86) + _line("M80 44h22M80 64h22M80 84h22", 8),
    ),
    "img/friendList.png": (
        _GREEN,
        '<rect x="34" y="26" width="66" height="76" rx="11" fill="#fff"/>'
        + _line("M27 46h13M27 64h13M27 82h13", 6)
        + '<circle cx="68" cy="55" r="10" fill="#1fa268"/>'
        + '<path d="M50 86v-2a12 12 0 0 1 12-12h12a12 12 0 0 1 12 12v2z" fill="#1fa268"/>',
    ),
    "img/whoCanChatMe.png": (
        _PURPLE,
        _bubble(24, 28, 80, 58)
        + _ink("M56 55v-5a8 8 0 0 1 16 0v5", "#6d4fd8", 5)
        + '<rect x="50" y="54" width="28" height="20" rx="5" fill="#6d4fd8"/>',
    ),
    "img/myQrcode1.png": (
        _ORANGE,
        _finder(30, 30)
        + _finder(71, 30)
        + _finder(30, 71)
        + "".join(
            f'<rect x="{x}" y="{y}" width="8.5" height="8.5" rx="2" fill="#fff"/>'
            for x, y in ((68, 68), (80, 80), (92, 68), (68, 92), (92, 92))
        ),
    ),
    "img/search.png": (_TEAL, f'<circle cx="57" cy="57" r="25" {_LINE.format(9)}/>' + _line("M77 77l20 20", 11)),
    "img/qunliaoNoticeIcon.png": (
        _BLUE,
        _bubble(40, 26, 64, 46, 0.6) + _bubble(22, 44, 66, 46) + _dots("#2f6fde", 67, 39, 55, 71),
    ),
    "img/applyAddMeFriendSet.png": (_GREEN, _person(54, 96, 1.06) + _line("M95 38v24M83 50h24", 8)),
    "img/setPassword.png": (
        _RED,
        _line("M45 60V48a19 19 0 0 1 38 0v12", 8)
        + '<rect x="34" y="57" width="60" height="44" rx="11" fill="#fff"/>'
        + '<circle cx="64" cy="75" r="6" fill="#e2504f"/>'
        + _ink("M64 78v9", "#e2504f", 6),
    ),
    "img/AskAndAnswerSet.png": (
        _ORANGE,
        _bubble(24, 26, 80, 62)
        + _ink("M54 49a10 9.500 0 1 1 14 9c-3 2-4 4-4 7", "#f07f2b", 6.5)
        + '<circle cx="64" cy="75.500" r="4.200" fill="#f07f2b"/>',
    ),
}


def svg(colours: tuple[str, str], figure: str, corner: int) -> str:
    """Return one icon; corner: radius of the tile's corners."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_SIDE}" height="{_SIDE}" viewBox="0 0 {_SIDE} {_SIDE}">'
        '<defs><linearGradient id="g" x1="0" y1="0" x2="1" y2="1">'
        f'<stop offset="0" stop-color="{colours[0]}"/><stop offset="1" stop-color="{colours[1]}"/></linearGradient></defs>'
        f'<rect width="{_SIDE}" height="{_SIDE}" rx="{corner}" fill="url(#g)"/>{figure}</svg>'
    )


def main(folder: Path) -> None:
    """Draw every icon below a folder."""
    # Not imported by name: neither is a dependency of the project.
    render = importlib.import_module("resvg_py").svg_to_bytes
    image = importlib.import_module("PIL.Image")
    for name, (colours, figure) in ICONS.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        is_jpeg = name.endswith(".jpg")
        drawn = image.open(io.BytesIO(bytes(render(svg_string=svg(colours, figure, 0 if is_jpeg else 28)))))
        if is_jpeg:  # which has no transparency: the tile fills it
            drawn.convert("RGB").save(target, quality=92)
        else:
            drawn.save(target, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
