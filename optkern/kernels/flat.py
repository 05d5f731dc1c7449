"""Parameters as one vector and views of it; flat arrays as a user arranges them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from . import buffers
from .forms import Node, rebuilt
from .names import spelled
from .structures import ParamsLike, Structure

# Where the vector begins in a page: gradients that are mapped on their own begin at 16, which lies
# between the vector, its first state array and its second, a third of a page each further on.
_PLACE = 11 * buffers.LINE


def arranged(arrays: Iterator[Any], structure: Structure) -> Any:
    """Arrange flat arrays as the user's; of groups, a list with each one's part.

    Lists, tuples, deques and dataclasses are of the user's types, mappings dicts.
    """
    if not structure.grouped:
        return _arranged(arrays, structure, structure.parts[0], structure.given)
    return [
        _arranged(arrays, structure, part, entry["params"])
        for part, entry in zip(structure.parts, structure.given)
    ]


def _arranged(arrays: Iterator[Any], structure: Structure, node: Node, like: Any) -> Any:
    if node.kind == "array":
        return next(arrays)
    if not node.is_container:
        return like if node.kind == "static" else None
    entries = [
        _arranged(arrays, structure, child, entry)
        for child, entry in zip(node.children, structure.entries(node, like))
    ]
    return rebuilt(like, node, entries)


class Flat(NamedTuple):
    """Hold one vector and views of it: ``vector, views = optkern.flatten(params)``.

    Attributes
    ----------
    vector : ndarray, shape (n,)
        All elements, each array's in C order, one array after the other.
    views : same structure as the parameters
        Arrays of the parameters' shapes in the vector's memory: what is written to one is in the
        other. Of groups, group dicts with all their other entries.
    """

    vector: np.ndarray
    views: Any


@spelled
def flatten(params: ParamsLike) -> Flat:
    """Copy parameters, or gradients, into one vector and give views of it in their places.

    For codes that think in one flat vector (evolution strategies, MPI, SciPy), and for fewer,
    longer arrays: an optimizer over `vector` trains `views`.

    Parameters
    ----------
    params : ndarray, any nesting of containers of them, or list of group dicts
        float32 or float64 arrays of any shape; not modified. Of both dtypes, the vector is float64.

    Returns
    -------
    Flat
        A named tuple ``(vector, views)``.

    Raises
    ------
    TypeError, ValueError
        On anything else, with its name and what came.

    Examples
    --------
    >>> import numpy as np, optkern
    >>> vector, views = optkern.flatten({"W": np.ones((2, 3)), "b": np.zeros(3)})
    >>> views["b"][...] = 5
    >>> vector
    array([1., 1., 1., 1., 1., 1., 5., 5., 5.])
    """
    structure = Structure("flatten", params)
    for label, array in zip(structure.labels, structure.arrays):
        buffers.check_floating("flatten", buffers.named("parameter", label), array)
    arrays = structure.arrays
    dtype = np.result_type(*(array.dtype for array in arrays))
    size = sum(array.size for array in arrays) * dtype.itemsize
    vector = buffers.zeros_at(_PLACE, size).view(dtype)
    views, first = [], 0
    for array in arrays:
        views.append(vector[first : first + array.size].reshape(array.shape))
        views[-1][...] = array
        first += array.size
    parts = arranged(iter(views), structure)
    if structure.grouped:
        parts = [{**entry, "params": part} for entry, part in zip(structure.given, parts)]
    return Flat(vector, parts)
