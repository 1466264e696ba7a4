"""A picture's figure as a mesh that bends: as-rigid-as-possible deformation, drawn limb after limb.

Sorkine and Alexa 2007, "As-rigid-as-possible surface modeling", in the plane, where points and rotations are complex
numbers: a node's best rotation is a sum's direction, and the global step one real matrix, factorised once. What holds
the mesh are limbs' affine maps; a limb that is foreshortened stays rigid in its foreshortened form.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.sparse import coo_array, diags_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu

HELD, LOOSE = 10.0, 1e-3  # how strongly a limb's map pulls its handles, and its other nodes, in edges' stiffness
STEPS = 3  # local and global ones a frame, from the limbs' own rotations
CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))  # of a cell: rows and columns from its first
TRIANGLES = ((0, 1, 2), (1, 3, 2))
BARS = ((0, 1), (2, 3), (0, 2), (1, 3), (0, 3), (1, 2))  # what keeps a cell's form: its sides and diagonals
SHIFT = 4  # bits after the point in which OpenCV is told corners


@dataclass(frozen=True)
class Limb:
    """What one limb shows of a picture, and where its map holds it."""

    pixels: np.ndarray  # (H, W, 4) uint8: premultiplied colours and alpha
    held: np.ndarray  # (H, W) bool: a node there goes where the map takes it


@dataclass(frozen=True)
class Join:
    """Two limbs are one within a radius, in pixels, about a place (2,)."""

    first: str
    second: str
    place: np.ndarray
    radius: float


@dataclass(frozen=True)
class Piece:
    """A limb's share of the mesh, and the window of the picture that it shows."""

    pixels: np.ndarray  # (h, w, 4) uint8
    quads: np.ndarray  # (C, 4) nodes
    places: np.ndarray  # (2C, 3, 2) triangles' corners in the window, counted from the first pixel's centre
    nodes: np.ndarray  # (n,)
    pull: np.ndarray  # (n,) how strongly the limb's map pulls them


class Mesh:
    """A grid over each limb, joined where limbs are joined and nowhere else: limbs that only overlap move apart."""

    def __init__(self, limbs: Mapping[str, Limb], joins: Sequence[Join], cell: float):
        """cell: pixels between nodes. Limbs that show nothing are left out."""
        shape = next(iter(limbs.values())).held.shape
        rows, columns = (int(np.ceil(side / cell)) + 1 for side in shape)
        at = (np.arange(columns) + 1j * np.arange(rows)[:, None]) * cell
        cells = {name: _cells(limb.pixels[..., 3], cell, (rows, columns)) for name, limb in limbs.items()}
        copies, count = {}, 0  # (rows, columns) numbers of a limb's own nodes
        for name in [name for name, each in cells.items() if each.any()]:
            own = np.zeros((rows, columns), bool)
            for down, right in CORNERS:
                own[down : rows - 1 + down, right : columns - 1 + right] |= cells[name]
            copies[name] = np.where(own, count + own.cumsum().reshape(own.shape) - 1, -1)
            count += int(own.sum())
        pairs = [np.zeros((2, 0), int)]
        for join in joins:
            if join.first in copies and join.second in copies:
                pair = np.stack([copies[join.first], copies[join.second]])
                pairs.append(pair[:, (np.abs(at - complex(*join.place)) < join.radius) & (pair >= 0).all(0)])
        one, other = np.hstack(pairs)
        same = coo_array((np.ones(len(one)), (one, other)), (count, count))
        self.size, merged = connected_components(same, directed=False)
        self.rest = np.zeros(self.size, complex)
        self.pieces: dict[str, Piece] = {}
        for name, copy in copies.items():
            self.rest[merged[copy[copy >= 0]]] = at[copy >= 0]
            down, right = np.nonzero(cells[name])
            quads = np.stack([merged[copy[down + a, right + b]] for a, b in CORNERS], 1)
            self.pieces[name] = _piece(limbs[name], quads, self.rest)
        quads = [piece.quads for piece in self.pieces.values()]
        self.begin, self.end = np.concatenate([quad[:, bar] for quad in quads for bar in BARS]).T
        self.of = np.repeat(np.arange(len(quads)), [len(BARS) * len(quad) for quad in quads])
        number = np.arange(len(self.begin))
        apart, self.around = (
            sum(
                coo_array((np.full(len(number), sign), (number, nodes)), (len(number), self.size))
                for sign, nodes in ends
            )
            for ends in (((-1.0, self.begin), (1.0, self.end)), ((1.0, self.begin), (1.0, self.end)))
        )
        self.apart, self.gather, self.around = apart.tocsr(), apart.T.tocsr(), self.around.T.tocsr()
        self.bars = self.apart @ self.rest
        pull = sum(np.bincount(each.nodes, each.pull, self.size) for each in self.pieces.values())
        self.solver = splu((self.gather @ self.apart + diags_array(pull)).tocsc())

    def bent(self, moves: Mapping[str, np.ndarray], steps: int = STEPS) -> np.ndarray:
        """Where nodes go (N,) complex, where each limb's map (2, 3) pulls it. Knows nothing of other frames."""
        turns, flips = np.zeros((2, len(self.pieces)), complex)
        spin, pull = np.zeros((2, self.size), complex)
        for index, (name, piece) in enumerate(self.pieces.items()):
            (a, b, x), (c, d, y) = moves[name]
            turn, flip = complex(a + d, c - b) / 2, complex(a - d, c + b) / 2  # z -> turn z + flip conj(z) + x + iy
            rest = self.rest[piece.nodes]
            spin[piece.nodes] += turn / abs(turn)
            pull[piece.nodes] += piece.pull * (turn * rest + flip * rest.conj() + complex(x, y))
            turns[index], flips[index] = turn, flip
        # what the map makes of a bar before it turns it
        bars = (np.abs(turns)[self.of]) * self.bars + (flips * turns.conj() / np.abs(turns))[self.of] * self.bars.conj()
        found = self._placed(spin, bars, pull)
        for _ in range(steps):
            found = self._placed(self.around @ ((self.apart @ found) * bars.conj()), bars, pull)
        return found

    def _placed(self, spin: np.ndarray, bars: np.ndarray, pull: np.ndarray) -> np.ndarray:
        """The global step: nodes (N,) between which bars are turned as spin (N,), of any length, says at their ends."""
        spin = spin / np.maximum(np.abs(spin), 1e-9)
        goal = self.gather @ (bars * (spin[self.begin] + spin[self.end]) / 2) + pull
        return self.solver.solve(np.stack([goal.real, goal.imag], 1)) @ (1, 1j)

    def draw(self, frame: np.ndarray, found: np.ndarray, order: Sequence[str]) -> None:
        """Limbs, in this order, over a frame (H, W, 3 or 4) uint8, in place."""
        points = np.stack([found.real, found.imag], 1) - 0.5
        for name in order:
            if name in self.pieces:
                _draw(frame, self.pieces[name], points)


def _cells(alpha: np.ndarray, cell: float, shape: tuple[int, int]) -> np.ndarray:
    """Cells (rows - 1, columns - 1) in which anything is to be seen."""
    seen = np.zeros((shape[0] - 1, shape[1] - 1), bool)
    rows, columns = np.nonzero(cv2.dilate(alpha, np.ones((3, 3), np.uint8)))  # bilinear: half a pixel beyond
    seen[((rows + 0.5) / cell).astype(int), ((columns + 0.5) / cell).astype(int)] = True
    return seen


def _piece(limb: Limb, quads: np.ndarray, rest: np.ndarray) -> Piece:
    nodes = np.unique(quads)
    at = np.stack([rest.real, rest.imag], 1)
    height, width = limb.held.shape
    low = np.floor(at[nodes].min(0)).astype(int).clip(0)
    high = np.ceil(at[nodes].max(0)).astype(int) + 1
    x, y = at[nodes].astype(int).clip(0, (width - 1, height - 1)).T
    places = at[quads[:, TRIANGLES].reshape(-1, 3)] - low - 0.5
    pull = np.where(limb.held[y, x], HELD, LOOSE)
    pixels = np.ascontiguousarray(limb.pixels[low[1] : high[1], low[0] : high[0]])
    return Piece(pixels, quads, places, nodes, pull)


def _draw(frame: np.ndarray, piece: Piece, points: np.ndarray) -> None:
    """Over a frame, in place: a limb whose nodes are at points (N, 2), counted from the first pixel's centre."""
    corners = points[piece.quads[:, TRIANGLES].reshape(-1, 3)]  # (T, 3, 2)
    low = np.floor(corners.min((0, 1))).astype(int).clip(0)
    high = np.minimum(np.ceil(corners.max((0, 1))).astype(int) + 1, frame.shape[1::-1])
    if (high <= low).any():
        return
    corners = corners - low
    # each triangle's map from the frame to the window: (T, 2, 3)
    to, fro = corners[:, 1:] - corners[:, :1], piece.places[:, 1:] - piece.places[:, :1]
    area = to[:, 0, 0] * to[:, 1, 1] - to[:, 0, 1] * to[:, 1, 0]
    area = np.where(np.abs(area) < 0.05, 0.05, area)
    inverse = (
        np.stack([to[:, 1, 1], -to[:, 0, 1], -to[:, 1, 0], to[:, 0, 0]], 1).reshape(-1, 2, 2) / area[:, None, None]
    )
    linear = (inverse @ fro).transpose(0, 2, 1)
    shift = piece.places[:, 0] - (linear @ corners[:, 0, :, None])[..., 0]
    maps = np.concatenate([np.full((1, 6), np.nan), np.concatenate([linear.reshape(-1, 4), shift], 1)]).astype(
        np.float32
    )
    width, height = high - low
    which = np.zeros((height, width), np.int32)
    fixed = (corners * (1 << SHIFT)).round().astype(np.int32)
    for index in np.argsort(area > 0, kind="stable"):  # what is turned over lies beneath
        cv2.fillConvexPoly(which, fixed[index], int(index) + 1, cv2.LINE_8, SHIFT)
    xx, xy, yx, yy, x, y = maps[which.ravel()].reshape(height, width, 6).transpose(2, 0, 1)
    across, down = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    drawn = cv2.remap(piece.pixels, xx * across + xy * down + x, yx * across + yy * down + y, cv2.INTER_LINEAR)
    part = frame[low[1] : high[1], low[0] : high[0]]
    behind = part.astype(np.uint16) * (255 - drawn[..., 3:].astype(np.uint16))
    part[:] = (drawn[..., : part.shape[2]] + ((behind + 127) // 255)).clip(0, 255)
