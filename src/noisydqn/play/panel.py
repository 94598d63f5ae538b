"""The panel of a video: text, and the value of each action with its spread under noise."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from noisydqn.dimensions import Sizes, firsts
from noisydqn.play.played import Shot

HEIGHT = 384  # of the video, pixels
PANEL = 192  # width of the panel beside the game, pixels
MARGIN = 12
TOP, BOTTOM = 140, 338  # of the bars
MAX_ROW = 44  # pixels from one action to the next
NUMBER_ROW, NAME_ROW = 32, 9  # from which on a row has the number below its bar, and its name
MAX_NAME = 84  # of a name beside its bar
DARK, LIGHT, CHOSEN, SPREAD = (18, 18, 24), (150, 150, 160), (255, 170, 60), (90, 200, 255)
FAINT = (70, 70, 78)  # the names of invalid actions
WITHIN = 10, 90
"""Percentiles of the noise samples between which the line of a spread is drawn."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_font = lru_cache(maxsize=None)(ImageFont.load_default)
"""The font of a size, cached, because a font draws a text faster the second time."""


class Row(NamedTuple):
    """An action's place on the panel, in pixels: its bar, and the line of its spread.

    An action that is invalid, or whose value is not finite, has a bar without width.
    """

    top: float
    bar: tuple[float, float, float, float]  # left, top, right, bottom
    spread: tuple[float, float] | None  # left and right end; None without noise or if invalid


class Panel:
    """Draws the panels of a video, whose scale holds all values so far.

    Args:
        names: of the actions; of several dimensions, of the choices in all.
        sizes: the number of choices in each dimension; None for one.
    """

    def __init__(self, names: tuple[str, ...], sizes: Sizes | None = None) -> None:
        self.names, self.sizes = names, (len(names),) if sizes is None else sizes
        self.row = min((BOTTOM - TOP) / len(names), MAX_ROW)
        self.font = _font(min(self.row - 1, 14)) if self.row >= NAME_ROW else None
        self.left = MARGIN  # of the bars
        if self.font is not None:
            self.left += min(max(map(self.font.getlength, names)), MAX_NAME) + 8
        self.low, self.high = np.inf, -np.inf

    def draw(self, shot: Shot, noisy: np.ndarray) -> np.ndarray:
        """Draw the panel [HEIGHT, PANEL, 3] of a shot.

        Args:
            shot: the shot.
            noisy: the action values under noise samples [samples, actions]; no samples if the
                policy has no noise.
        """
        image = Image.new("RGB", (PANEL, HEIGHT), DARK)
        draw = ImageDraw.Draw(image)
        for i, line in enumerate(shot.lines):
            draw.text((MARGIN, 12 + 26 * i), line, fill=LIGHT, font=_font(20))
        draw.text((MARGIN, 96), "action values", fill=LIGHT, font=_font(16))
        if len(noisy):
            draw.text((MARGIN, 116), "and their spread under noise", fill=SPREAD, font=_font(12))
        for action, row in enumerate(self.rows(shot, noisy)):
            self._draw_row(draw, shot, action, row)
        self._draw_end(draw, shot, noisy)
        return np.asarray(image)

    def rows(self, shot: Shot, noisy: np.ndarray) -> list[Row]:
        """Place the bars of a shot; all values so far lie between the ends of the scale."""
        valid, ends = np.isfinite(shot.q), np.stack([shot.q] * 2)
        if len(noisy):
            valid &= np.isfinite(noisy).all(axis=0)
            ends[:, valid] = np.percentile(noisy[:, valid], WITHIN, axis=0)
        if valid.any():
            self.low = min(self.low, float(shot.q[valid].min()), float(ends[:, valid].min()))
            self.high = max(self.high, float(shot.q[valid].max()), float(ends[:, valid].max()))
        left = self.left
        scale = (PANEL - MARGIN - left) / max(self.high - self.low, 1e-6)
        thick = 0.35 * self.row if self.row >= NUMBER_ROW else 0.7 * self.row
        rows: list[Row] = []
        for action, q in enumerate(shot.q):
            top = TOP + action * self.row
            if not valid[action]:
                rows.append(Row(top, (left, top, left, top + thick), None))
                continue
            right = left + max((float(q) - self.low) * scale, 2)
            low, high = (left + (float(end) - self.low) * scale for end in ends[:, action])
            spread = (low, high) if len(noisy) else None
            rows.append(Row(top, (left, top, right, top + thick), spread))
        return rows

    def _draw_row(self, draw: ImageDraw.ImageDraw, shot: Shot, action: int, row: Row) -> None:
        valid = row.bar[0] < row.bar[2]
        color = CHOSEN if action in shot.actions else LIGHT if valid else FAINT
        left, top, _, bottom = row.bar
        if valid:
            draw.rectangle(row.bar, fill=color)
        if row.spread is not None:
            middle, half = (top + bottom) / 2, min((bottom - top) / 2 - 1, 4)
            draw.line((row.spread[0], middle, row.spread[1], middle), fill=SPREAD, width=2)
            for end in row.spread:
                draw.line((end, middle - half, end, middle + half), fill=SPREAD, width=2)
        if self.font is not None:
            name, place = _fitted(self.names[action], self.font, MAX_NAME), (top + bottom) / 2
            draw.text((MARGIN, place), name, fill=color, font=self.font, anchor="lm")
        if self.row >= NUMBER_ROW and valid:
            number = f"{shot.q[action]:.2f}"
            draw.text((left, bottom + 3), number, fill=color, font=_font(12))

    def _draw_end(self, draw: ImageDraw.ImageDraw, shot: Shot, noisy: np.ndarray) -> None:
        if self.row < NUMBER_ROW:
            number, font = f"{shot.q[[*shot.actions]].mean():.2f}", _font(14)
            room = PANEL - 2 * MARGIN - font.getlength(f"  {number}")
            several = len(self.sizes) > 1
            name = _fitted("mean" if several else self.names[shot.actions[0]], font, room)
            draw.text((MARGIN, 342), f"{name}  {number}", fill=CHOSEN, font=font)
        if len(noisy):
            parts = np.split(noisy, firsts(self.sizes)[1:], axis=1)
            best = np.stack([np.argmax(part, axis=1) for part in parts], axis=1)
            changed = float(np.mean(best + firsts(self.sizes) != np.array(shot.actions)))
            words = f"noise picks another: {changed:.0%}"
            draw.text((MARGIN, 362), words, fill=SPREAD, font=_font(14))


def _fitted(name: str, font: Font, width: float) -> str:
    """Shorten a name until it fits a width in pixels."""
    while len(name) > 1 and font.getlength(name) > width:
        name = name[:-1]
    return name
