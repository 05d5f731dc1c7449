"""Reach a tensor from NumPy: its memory, the number in it, torch's count of its changes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...kernels.buffers import named
from ...kernels.dlpack import Exchange
from ...kernels.places import address
from ...kernels.rules import checked_option
from .library import torch


def memory(what: str, tensor: Any) -> np.ndarray:
    """Give the array over a dense tensor's memory."""
    tensor = tensor.detach()
    if tensor.numel() and not tensor.data_ptr():  # NumPy would take memory of its own for it
        raise TypeError(f"{what} has no memory: its storage has been freed")
    try:
        if tensor.dtype != torch.bfloat16:
            return tensor.numpy()
        words = tensor.view(torch.int16).numpy()
    except (TypeError, RuntimeError) as error:
        if "alloc" in str(error):  # as torch says that there is no memory left
            raise MemoryError(f"{what}: {error}") from None
        raise TypeError(f"{what} does not share its memory: {error}") from error
    try:
        import ml_dtypes
    except ImportError:
        raise ImportError(
            f"{what} is bfloat16, for which NumPy needs ml_dtypes: pip install ml_dtypes"
        ) from None
    return words.view(ml_dtypes.bfloat16)


def copy_into(what: str, tensor: Any, array: np.ndarray) -> None:
    """Copy a tensor of any dtype and device into an array of its shape."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{what} must be a tensor, got {type(tensor).__name__}")
    if tuple(tensor.shape) != array.shape:
        raise ValueError(f"{what} must have shape {array.shape}, got {tuple(tensor.shape)}")
    if tensor.layout != torch.strided:
        raise TypeError(f"{what} must be dense, got {tensor.layout}")
    if tensor.is_complex() or tensor.is_quantized or tensor.is_meta:
        came = "a meta tensor, without numbers" if tensor.is_meta else tensor.dtype
        raise TypeError(f"{what} must be real numbers, got {came}")
    torch.from_numpy(array).copy_(tensor.detach())
    if array.dtype == np.float32 and tensor.dtype == torch.float64:
        lost = np.isinf(array).sum() - int(tensor.isinf().sum())
        if lost:
            raise ValueError(f"{what} has {lost} numbers that are too large for float32")


class PlainExchange:
    """Do what `Exchange` does, for a torch without DLPack's C functions."""

    def over(self, tensors: list[Any], likes: list[np.ndarray]) -> list[Any]:
        """Give the tensors themselves, of which no array was made."""
        return list(tensors)

    def are(self, tensors: list[Any], arrays: list[np.ndarray]) -> bool:
        """Say whether each array lies on its tensor's memory."""

        def form(array: np.ndarray) -> tuple[Any, ...]:
            return address(array), array.dtype, array.shape, array.strides

        pairs = [(t, a) for t, a in zip(tensors, arrays) if a.size]
        return all(form(memory("", t)) == form(a) for t, a in pairs)


def made_exchange() -> Any:
    """Make the exchange: by DLPack's C functions where this torch has them."""
    try:
        return Exchange(torch.Tensor.__dlpack_c_exchange_api__)
    except (AttributeError, ValueError):
        return PlainExchange()


exchange = made_exchange()


def note_changes(tensors: list[Any]) -> None:
    """Count a change of each tensor."""
    try:
        torch.autograd.graph.increment_version(tensors)
    except TypeError:  # an older torch takes one at a time
        for tensor in tensors:
            torch.autograd.graph.increment_version(tensor)


def plain(value: Any) -> Any:
    """Give the number that a tensor holds, where it holds one; anything else as it is."""
    if type(value) is float or type(value) is bool:
        return value
    if isinstance(value, (tuple, list)):
        return tuple(map(plain, value))
    return value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value


def whole_number(what: str, value: Any) -> int:
    """Give a number of steps as an integer, from what torch holds or from one."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and 0 <= value < 2**53 and value == int(value)):
        raise ValueError(f"{what} must be a whole number of steps, got {value!r}")
    return int(value)


def check_counts(owner: str, name: str, counts: np.ndarray) -> None:
    """Refuse what is no count: steps taken, or NAdam's product, of each parameter."""
    for i, value in enumerate(counts.tolist()):
        what = f"{owner}: the state of {named('parameter', i)}"
        if name == "step":
            whole_number(f"{what}: step", value)
        else:
            checked_option(what, name, value)
