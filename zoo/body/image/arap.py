"""A figure as a 2D mesh that bends: as-rigid-as-possible deformation, drawn limb by limb.

Sorkine and Alexa 2007, "As-rigid-as-possible surface modeling", in the plane. Points and rotations are complex numbers:
a node's best rotation is the direction of a sum, and the global step is one real matrix, factorised once. The limbs'
affine maps hold the mesh; a foreshortened limb stays rigid in its foreshortened form.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.sparse import coo_array, diags_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu

HANDLE_WEIGHT, FREE_WEIGHT = 10.0, 1e-3  # pull of a limb's map on its handles and on its other nodes; edges have 1
NUM_ITERATIONS = 3  # local and global steps a frame, starting from the limbs' own rotations
CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))  # of a cell: (rows, columns) from its upper left node
TRIANGLES = ((0, 1, 2), (1, 3, 2))  # of a cell, by CORNERS
CELL_EDGES = ((0, 1), (2, 3), (0, 2), (1, 3), (0, 3), (1, 2))  # sides and diagonals, which keep a cell's shape
SUBPIXEL_BITS = 4  # binary places of the corners that OpenCV draws
MIN_DETERMINANT = 0.05  # square pixels: lower bound of twice a triangle's area, so that its map can be inverted


@dataclass(frozen=True)
class Limb:
    """The pixels of one limb, and the handles by which its map holds it."""

    pixels: np.ndarray  # (H, W, 4) uint8: premultiplied colors and alpha
    handles: np.ndarray  # (H, W) bool: nodes there follow the limb's map


@dataclass(frozen=True)
class Connection:
    """Two limbs share their nodes within a radius, in pixels, about a center (2,)."""

    first: str
    second: str
    center: np.ndarray
    radius: float


@dataclass(frozen=True)
class LimbMesh:
    """The part of the mesh that draws a limb, and the window of the image that it shows."""

    pixels: np.ndarray  # (h, w, 4) uint8
    quads: np.ndarray  # (C, 4) node numbers of each cell's CORNERS
    triangle_corners: np.ndarray  # (2C, 3, 2) x, y of the triangles' corners in `pixels`, from the first pixel's center
    nodes: np.ndarray  # (n,) numbers of the limb's nodes
    node_pulls: np.ndarray  # (n,) pull of the limb's map on them


class Mesh:
    """A grid over each limb, connected at the joints only: limbs that merely overlap can move apart.

    rest (N,) complex: x + iy of the nodes in the image; start, end (E,): node numbers of each edge's ends; edge_limb
    (E,): index of its limb in `limbs`; edges (E,) complex: from start to end at rest.
    """

    def __init__(self, limbs: Mapping[str, Limb], connections: Sequence[Connection], cell_size: float):
        """cell_size: pixels between nodes. Limbs without visible pixels are left out."""
        image_size = next(iter(limbs.values())).handles.shape
        rows, columns = (int(np.ceil(side / cell_size)) + 1 for side in image_size)
        grid_points = (np.arange(columns) + 1j * np.arange(rows)[:, None]) * cell_size
        cells = {name: _visible_cells(limb.pixels[..., 3], cell_size, (rows, columns)) for name, limb in limbs.items()}
        limb_nodes, num_unmerged = {}, 0  # (rows, columns) numbers of a limb's nodes before they are merged
        for name in [name for name, visible in cells.items() if visible.any()]:
            is_node = np.zeros((rows, columns), bool)
            for row_offset, column_offset in CORNERS:
                node_rows = slice(row_offset, rows - 1 + row_offset)
                is_node[node_rows, column_offset : columns - 1 + column_offset] |= cells[name]
            limb_nodes[name] = np.where(is_node, num_unmerged + is_node.cumsum().reshape(is_node.shape) - 1, -1)
            num_unmerged += int(is_node.sum())
        shared_nodes = [np.zeros((2, 0), int)]
        for connection in connections:
            if connection.first in limb_nodes and connection.second in limb_nodes:
                node_pairs = np.stack([limb_nodes[connection.first], limb_nodes[connection.second]])
                is_near = np.abs(grid_points - complex(*connection.center)) < connection.radius
                shared_nodes.append(node_pairs[:, is_near & (node_pairs >= 0).all(0)])
        first_nodes, second_nodes = np.hstack(shared_nodes)
        graph = coo_array((np.ones(len(first_nodes)), (first_nodes, second_nodes)), (num_unmerged, num_unmerged))
        self.num_nodes, merged_number = connected_components(graph, directed=False)
        self.rest = np.zeros(self.num_nodes, complex)
        self.limbs: dict[str, LimbMesh] = {}
        for name, unmerged_numbers in limb_nodes.items():
            self.rest[merged_number[unmerged_numbers[unmerged_numbers >= 0]]] = grid_points[unmerged_numbers >= 0]
            cell_rows, cell_columns = np.nonzero(cells[name])
            corners = [(cell_rows + row_offset, cell_columns + column_offset) for row_offset, column_offset in CORNERS]
            quads = np.stack([merged_number[unmerged_numbers[corner]] for corner in corners], 1)
            self.limbs[name] = _make_limb_mesh(limbs[name], quads, self.rest)
        limb_quads = [limb.quads for limb in self.limbs.values()]
        self.start, self.end = np.concatenate([quads[:, edge] for quads in limb_quads for edge in CELL_EDGES]).T
        self.edge_limb = np.repeat(np.arange(len(limb_quads)), [len(CELL_EDGES) * len(quads) for quads in limb_quads])
        edge_numbers = np.arange(len(self.start))
        difference_matrix, sum_matrix = (
            sum(
                coo_array(
                    (np.full(len(edge_numbers), sign), (edge_numbers, nodes)), (len(edge_numbers), self.num_nodes)
                )
                for sign, nodes in signed_ends
            )
            for signed_ends in (((-1.0, self.start), (1.0, self.end)), ((1.0, self.start), (1.0, self.end)))
        )
        # matrices (E, N): nodes -> edges; (N, E): edges -> sums over a node's edges, with and without their sign
        self.difference_matrix, self.divergence_matrix, self.edge_sum_matrix = (
            difference_matrix.tocsr(),
            difference_matrix.T.tocsr(),
            sum_matrix.T.tocsr(),
        )
        self.edges = self.difference_matrix @ self.rest
        total_pulls = sum(np.bincount(limb.nodes, limb.node_pulls, self.num_nodes) for limb in self.limbs.values())
        self.solver = splu((self.divergence_matrix @ self.difference_matrix + diags_array(total_pulls)).tocsc())

    def deform(self, transforms: Mapping[str, np.ndarray], num_iterations: int = NUM_ITERATIONS) -> np.ndarray:
        """Positions of the nodes (N,) complex, pulled by each limb's map (2, 3). Depends on no other frame."""
        rotations, flips = np.zeros((2, len(self.limbs)), complex)
        node_rotations, pull = np.zeros((2, self.num_nodes), complex)
        for index, (name, limb) in enumerate(self.limbs.items()):
            (a, b, x), (c, d, y) = transforms[name]
            # z -> rotation z + flip conj(z) + x + iy
            rotation, flip = complex(a + d, c - b) / 2, complex(a - d, c + b) / 2
            rest = self.rest[limb.nodes]
            node_rotations[limb.nodes] += rotation / abs(rotation)
            pull[limb.nodes] += limb.node_pulls * (rotation * rest + flip * rest.conj() + complex(x, y))
            rotations[index], flips[index] = rotation, flip
        # the edges after the limb's map, before its rotation
        edges = (np.abs(rotations)[self.edge_limb]) * self.edges
        edges = edges + (flips * rotations.conj() / np.abs(rotations))[self.edge_limb] * self.edges.conj()
        nodes = self._global_step(node_rotations, edges, pull)
        for _ in range(num_iterations):
            node_rotations = self.edge_sum_matrix @ ((self.difference_matrix @ nodes) * edges.conj())
            nodes = self._global_step(node_rotations, edges, pull)
        return nodes

    def _global_step(self, rotations: np.ndarray, edges: np.ndarray, pull: np.ndarray) -> np.ndarray:
        """Nodes (N,) whose edges are rotated by the mean rotation (N,), of any length, of their two ends."""
        rotations = rotations / np.maximum(np.abs(rotations), 1e-9)
        target = self.divergence_matrix @ (edges * (rotations[self.start] + rotations[self.end]) / 2) + pull
        return self.solver.solve(np.stack([target.real, target.imag], 1)) @ (1, 1j)

    def draw(self, frame: np.ndarray, nodes: np.ndarray, order: Sequence[str]) -> None:
        """Draw the limbs, in this order, over a frame (H, W, 3 or 4) uint8, in place."""
        points = np.stack([nodes.real, nodes.imag], 1) - 0.5
        for name in order:
            if name in self.limbs:
                _draw_limb(frame, self.limbs[name], points)


def _visible_cells(alpha: np.ndarray, cell_size: float, shape: tuple[int, int]) -> np.ndarray:
    """Whether each cell has a visible pixel: bool (rows - 1, columns - 1). shape: rows and columns of nodes."""
    is_visible = np.zeros((shape[0] - 1, shape[1] - 1), bool)
    rows, columns = np.nonzero(cv2.dilate(alpha, np.ones((3, 3), np.uint8)))  # bilinear: half a pixel beyond
    is_visible[((rows + 0.5) / cell_size).astype(int), ((columns + 0.5) / cell_size).astype(int)] = True
    return is_visible


def _make_limb_mesh(limb: Limb, quads: np.ndarray, rest: np.ndarray) -> LimbMesh:
    """Cut out the window of a limb with the cells `quads` (C, 4); rest (N,): all nodes, see `Mesh`."""
    nodes = np.unique(quads)
    points = np.stack([rest.real, rest.imag], 1)
    height, width = limb.handles.shape
    window_start = np.floor(points[nodes].min(0)).astype(int).clip(0)
    window_stop = np.ceil(points[nodes].max(0)).astype(int) + 1
    node_x, node_y = points[nodes].astype(int).clip(0, (width - 1, height - 1)).T
    triangle_corners = points[quads[:, TRIANGLES].reshape(-1, 3)] - window_start - 0.5
    node_pulls = np.where(limb.handles[node_y, node_x], HANDLE_WEIGHT, FREE_WEIGHT)
    pixels = np.ascontiguousarray(limb.pixels[window_start[1] : window_stop[1], window_start[0] : window_stop[0]])
    return LimbMesh(pixels, quads, triangle_corners, nodes, node_pulls)


def _draw_limb(frame: np.ndarray, limb: LimbMesh, points: np.ndarray) -> None:
    """Draw a limb over a frame, in place, its nodes at points (N, 2), counted from the first pixel's center."""
    triangle_corners = points[limb.quads[:, TRIANGLES].reshape(-1, 3)]  # (T, 3, 2)
    window_start = np.floor(triangle_corners.min((0, 1))).astype(int).clip(0)
    window_stop = np.minimum(np.ceil(triangle_corners.max((0, 1))).astype(int) + 1, frame.shape[1::-1])
    if (window_stop <= window_start).any():
        return
    triangle_corners = triangle_corners - window_start
    # each triangle's map from the frame to the limb's window: (T, 2, 3)
    sides = triangle_corners[:, 1:] - triangle_corners[:, :1]
    window_sides = limb.triangle_corners[:, 1:] - limb.triangle_corners[:, :1]
    determinant = sides[:, 0, 0] * sides[:, 1, 1] - sides[:, 0, 1] * sides[:, 1, 0]
    determinant = np.where(np.abs(determinant) < MIN_DETERMINANT, MIN_DETERMINANT, determinant)
    adjugate = np.stack([sides[:, 1, 1], -sides[:, 0, 1], -sides[:, 1, 0], sides[:, 0, 0]], 1).reshape(-1, 2, 2)
    linear = ((adjugate / determinant[:, None, None]) @ window_sides).transpose(0, 2, 1)
    translation = limb.triangle_corners[:, 0] - (linear @ triangle_corners[:, 0, :, None])[..., 0]
    empty_map = np.full((1, 6), np.nan)
    maps = np.concatenate([empty_map, np.concatenate([linear.reshape(-1, 4), translation], 1)]).astype(np.float32)
    width, height = window_stop - window_start
    triangle_map = np.zeros((height, width), np.int32)
    fixed_point_corners = (triangle_corners * (1 << SUBPIXEL_BITS)).round().astype(np.int32)
    for index in np.argsort(determinant > 0, kind="stable"):  # triangles that are turned over lie beneath the others
        cv2.fillConvexPoly(triangle_map, fixed_point_corners[index], int(index) + 1, cv2.LINE_8, SUBPIXEL_BITS)
    x_by_column, x_by_row, y_by_column, y_by_row, x_start, y_start = (
        maps[triangle_map.ravel()].reshape(height, width, 6).transpose(2, 0, 1)
    )
    columns, rows = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    layer = cv2.remap(
        limb.pixels,
        x_by_column * columns + x_by_row * rows + x_start,
        y_by_column * columns + y_by_row * rows + y_start,
        cv2.INTER_LINEAR,
    )
    window = frame[window_start[1] : window_stop[1], window_start[0] : window_stop[0]]
    background = window.astype(np.uint16) * (255 - layer[..., 3:].astype(np.uint16))
    window[:] = (layer[..., : window.shape[2]] + ((background + 127) // 255)).clip(0, 255)
