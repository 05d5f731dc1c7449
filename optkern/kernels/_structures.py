"""How a user arranges parameters: an array, a list, a dict, or groups of those; and flat again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from . import _arrays

Params = Any
Label = int | str


class Structure:
    """How the user's parameters are arranged: an array, a list, a dict, or groups of those.

    Parameters
    ----------
    owner : str
        Who speaks in error messages.
    params : ndarray, sequence of ndarray, mapping of str to ndarray, or sequence of group dicts
        A group dict has the key ``"params"`` and any hyperparameters.
    what : str
        What the parameters are called in error messages.
    """

    def __init__(self, owner: str, params: Params, what: str = "params") -> None:
        self.owner = owner
        self.what = what
        self.grouped = _is_groups(params)
        entries = params if self.grouped else [{"params": params}]
        self.parts: list[tuple[str, tuple[str, ...] | int]] = []
        self.overrides: list[dict[str, Any]] = []
        self.groups: list[int] = []
        self.labels: list[Label] = []
        self.arrays: list[Any] = []
        for number, entry in enumerate(entries):
            if "params" not in entry:
                raise TypeError(f"{owner}: group {number} has no 'params', only {sorted(entry)}")
            self._add(number, entry["params"])
            self.overrides.append({k: v for k, v in entry.items() if k != "params"})
        if not self.arrays:
            raise ValueError(f"{owner}: {what} is empty, there are no arrays in it")
        self.single = not self.grouped and self.parts == [("array", 1)]
        kind, count = self.parts[0]
        self._entries = count if kind == "list" and not self.grouped else -1

    def _add(self, number: int, params: Params) -> None:
        where = f"params of group {number}" if self.grouped else self.what
        if not isinstance(params, (np.ndarray, Mapping, list, tuple)):
            params = _arrays.shared(self.owner, where, params)
        if isinstance(params, np.ndarray):
            self.parts.append(("array", 1))
            entries: list[tuple[Label, Any]] = [(len(self.arrays), params)]
        elif isinstance(params, Mapping):
            names = tuple(params)
            for name in names:
                if not isinstance(name, str):
                    raise TypeError(f"{self.owner}: {where} has the key {name!r}, not a name")
                if name in self.labels:
                    raise ValueError(f"{self.owner}: two groups have a parameter {name!r}")
            self.parts.append(("dict", names))
            entries = list(params.items())
        elif isinstance(params, (list, tuple)):
            self.parts.append(("list", len(params)))
            entries = [(len(self.arrays) + k, array) for k, array in enumerate(params)]
        else:
            raise TypeError(
                f"{self.owner}: {where} must be an array, a list or a dict of arrays, or a list of "
                f"group dicts, got {type(params).__name__}"
            )
        self.labels += [label for label, _ in entries]
        self.arrays += self._shared(entries)
        self.groups += [number] * len(entries)

    def _shared(self, entries: Iterable[tuple[Label, Any]]) -> list[Any]:
        """The entries as ndarrays over their own memory, where they have some."""
        return [
            _arrays.shared(self.owner, _arrays.named("parameter", label), array)
            for label, array in entries
        ]

    def arrays_of(self, params: Params) -> list[Any]:
        """Other parameters of this structure, flat."""
        return self._shared(zip(self.labels, self.flatten(params, "params")))

    def flatten(self, values: Any, what: str) -> tuple[Any, ...]:
        """``values`` of the same structure as the parameters, as a flat tuple.

        Raises
        ------
        TypeError, ValueError
            Naming what is missing, left over or of another structure.
        """
        # A list is what most people have; the general way is a third of a small step.
        if type(values) is list and len(values) == self._entries:
            return tuple(values)
        if not self.grouped:
            return self._flatten_part(0, values, what)
        if not isinstance(values, (list, tuple)) or len(values) != len(self.parts):
            came = f"{len(values)}" if isinstance(values, (list, tuple)) else type(values).__name__
            raise ValueError(
                f"{self.owner}: {what} must be a list with one entry for each of the "
                f"{len(self.parts)} groups, got {came}"
            )
        flat: list[Any] = []
        for number, entry in enumerate(values):
            flat += self._flatten_part(number, entry, f"{what} of group {number}")
        return tuple(flat)

    def _flatten_part(self, number: int, values: Any, what: str) -> tuple[Any, ...]:
        kind, names = self.parts[number]
        if kind == "array":
            return (values,)
        if kind == "list":
            if not isinstance(values, (list, tuple)):
                raise TypeError(
                    f"{self.owner}: {what} must be a list like the parameters, "
                    f"got {type(values).__name__}"
                )
            if len(values) != names:
                raise ValueError(
                    f"{self.owner}: {what} must have {names} entries, got {len(values)}"
                )
            return tuple(values)
        if not isinstance(values, Mapping):
            raise TypeError(
                f"{self.owner}: {what} must be a dict like the parameters, "
                f"got {type(values).__name__}"
            )
        if len(values) != len(names) or any(name not in values for name in names):  # type: ignore
            missing = [name for name in names if name not in values]  # type: ignore[union-attr]
            extra = [name for name in values if name not in names]  # type: ignore[operator]
            raise ValueError(
                f"{self.owner}: {what} must have the parameters' names; "
                f"missing {missing}, left over {extra}"
            )
        return tuple([values[name] for name in names])  # type: ignore[union-attr]


def arranged(arrays: Iterator[Any], like: Params) -> Any:
    """Flat arrays as a user arranges them; of groups, a list with each one's part."""
    if isinstance(like, Mapping):
        return {name: next(arrays) for name in like}
    if not isinstance(like, (list, tuple)):
        return next(arrays)
    if _is_groups(like):
        return [arranged(arrays, entry["params"]) for entry in like]
    entries = [next(arrays) for _ in like]
    return tuple(entries) if isinstance(like, tuple) else entries


class Flat(NamedTuple):
    """One vector and the parameters as views of it: ``vector, views = optkern.flatten(params)``.

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


def flatten(params: Params) -> Flat:
    """Copy parameters, or gradients, into one vector and give views of it in their places.

    For codes that think in one flat vector (evolution strategies, MPI, SciPy), and for fewer,
    longer arrays: an optimizer over `vector` trains `views`.

    Parameters
    ----------
    params : ndarray, list of ndarray, dict of str to ndarray, or list of group dicts
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
    >>> vector, views = optkern.flatten({"W": np.ones((2, 3)), "b": np.zeros(3)})
    >>> views["b"][...] = 5
    >>> vector
    array([1., 1., 1., 1., 1., 1., 5., 5., 5.])
    """
    structure = Structure("flatten", params)
    for label, array in zip(structure.labels, structure.arrays):
        _arrays.check_floating("flatten", _arrays.named("parameter", label), array)
    arrays = structure.arrays
    dtype = np.result_type(*(array.dtype for array in arrays))
    vector = np.empty(sum(array.size for array in arrays), dtype)
    views, first = [], 0
    for array in arrays:
        views.append(vector[first : first + array.size].reshape(array.shape))
        views[-1][...] = array
        first += array.size
    parts = arranged(iter(views), params)
    if structure.grouped:
        parts = [{**entry, "params": part} for entry, part in zip(params, parts)]
    return Flat(vector, parts)


def _is_groups(params: Params) -> bool:
    return (
        isinstance(params, (list, tuple))
        and len(params) > 0
        and all(isinstance(entry, Mapping) for entry in params)
    )
