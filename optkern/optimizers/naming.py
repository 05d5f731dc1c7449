"""What the names of parameters say: their parts, the words of these, and what the words mean.

Names are paths, as PyTorch (``h.0.ln_1.weight``), Keras (``dense_1/kernel:0``) and Flax
(``Dense_0/kernel``) write them, or one word (``W1``, ``tok_emb``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property

BIASES = {"b", "bias", "biases", "intercept", "intercepts"}
NORMS = {"norm", "ln", "bn", "gn", "gamma", "beta"}
EMBEDDINGS = {"emb", "embed", "embeds", "embs", "embedder", "wemb", "wte", "wpe", "lookup"}
HEADS = {"head", "heads", "logits", "classifier", "cls", "unembed", "unembedding", "lmhead"}
WEIGHTS = {"w", "weight", "weights", "kernel", "matrix", "coef", "coefs"} | BIASES
# What may stand beside "weight" in the last part of a path: of a recurrent layer, a direction, ...
_BESIDE_WEIGHT = {
    *("ih", "hh", "hr", "l", "v", "g", "reverse", "recurrent", "orig", "original", "raw"),
    *("parametrizations", "default", "mu", "sigma", "shape"),
}
# Layers: an embedding is looked up, and has none of these in its own name.
LAYERS = {
    *("proj", "projection", "projector", "project", "mapping", "linear", "fc", "dense", "mlp"),
    *("conv", "gate", "attn", "attention"),
}
# Of arrays that act element by element, as the last word of their own name.
SCALE_WORDS = {
    *("scale", "scales", "gain", "gains", "temperature", "decay", "log", "logstd", "std"),
    *("logvar", "sigma", "real", "imag", "re", "im"),
}
TABLES = {"table", "tables", "matrix", "layer", "weight", "weights"}
POSITIONS = {"pos", "position", "positions", "positional"}
TOKENS = {"token", "tokens", "tok", "latents", "prompt", "prompts"}
OUTPUTS = {
    "out",
    "wout",
    "output",
    "outputs",
    "final",
    "readout",
    "prediction",
    "predictions",
    "score",
}
# Two towers that meet in one space, each by a projection of its own.
MEETING = {"text", "visual", "vision", "image", "audio"}
# Networks side by side, each with an output of its own.
TOWERS = {
    *("actor", "critic", "policy", "value", "values", "advantage", "adv", "action", "pi", "vf"),
}
RECURRENT = {"recurrent", "hh", "rnn", "lstm", "gru"}


def words_of(name: str) -> list[str]:
    """Split a name into its words and numbers, in lower case: ``"tok_emb.W1"`` has four."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    return [part.lower() for part in parts]


def words_without_numbers(name: str) -> list[str]:
    """Return the words of a name alone."""
    return [word for word in words_of(name) if not word.isdigit()]


def says_weight(word: str) -> bool:
    """Return whether a word says no more than that something is a weight or a bias."""
    return word in WEIGHTS or word in _BESIDE_WEIGHT


def is_norm(word: str) -> bool:
    """Return whether a word says that something is a normalisation's."""
    return word in NORMS or word.endswith(("norm", "normalization"))


def is_embedding(word: str) -> bool:
    """Return whether a word says that something is an embedding's."""
    return word in EMBEDDINGS or word.endswith(("embed", "embedding", "embeddings"))


class Name:
    """Hold a parameter's name by its parts.

    Attributes
    ----------
    parts : list of str
    leaf : list of str
        The words of the last part that has any; numbers are none.
    own : list of str
        Those of the part that says what it is: of ``fc.weight`` those of ``fc``.
    within : list of str
        The parts before that, numbers among them.
    plain : bool
        Whether the last part says no more than that it is a weight.
    """

    def __init__(self, text: str) -> None:
        self.parts = [part for part in re.split("[./]", re.sub(r":\d+$", "", text)) if part]
        places = [k for k, part in enumerate(self.parts) if words_without_numbers(part)]
        speaking = [k for k in places if not _is_plain(words_without_numbers(self.parts[k]))]
        self.leaf = words_without_numbers(self.parts[places[-1]]) if places else []
        self.plain = bool(places) and _is_plain(self.leaf)
        self.own = words_without_numbers(self.parts[speaking[-1]]) if speaking else []
        self.within = self.parts[: speaking[-1]] if speaking else []

    @cached_property
    def words(self) -> list[str]:
        """List all words."""
        return [word for part in self.parts for word in words_without_numbers(part)]

    @cached_property
    def block(self) -> int:
        """Give the place of the first part that is a number with a name of something behind it.

        Without one, the number of parts: ``h.0.attn.W`` is in a block, ``layers.0.W`` in none.
        """
        for k in range(len(self.within)):
            if self.parts[k].isdigit():
                return k
        return len(self.parts)

    @cached_property
    def pattern(self) -> str:
        """Return the name with ``#`` in the places of numbers."""
        return re.sub(r"\d+", "#", ".".join(self.parts))

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """List the numbers in the name."""
        return tuple(map(int, re.findall(r"\d+", ".".join(self.parts))))

    @cached_property
    def layer(self) -> tuple[str, ...]:
        """Give the words and numbers that are left without those for weight and bias."""
        return tuple(word for part in self.parts for word in words_of(part) if word not in WEIGHTS)

    def cut(self, count: int) -> None:
        """Leave out the first parts, which all names have."""
        del self.parts[:count]
        self.within = self.within[count:]


def _is_plain(words: list[str]) -> bool:
    return bool(words) and all(map(says_weight, words))


# Packaging around a network, which says nothing of its parts.
_WRAPPERS = {
    *("model", "module", "net", "network", "params", "transformer", "backbone", "sequential"),
    *("_orig_mod", "base_model", "gpt_neox", "agent"),
}


def read_names(texts: Iterable[str]) -> list[Name]:
    """Read names; what stands before all of them, and what wraps a network, is left out."""
    names = [Name(text) for text in texts]
    while names and all(len(name.within) and name.parts[0] == names[0].parts[0] for name in names):
        for name in names:
            name.cut(1)
    for name in names:
        while name.within and name.parts[0].lower() in _WRAPPERS:
            name.cut(1)
    return names


def in_order(texts: list[str]) -> tuple[list[int], bool]:
    """Return the places of names in the order of layers, and whether they came by the alphabet.

    JAX sorts the keys of dicts: ``Dense_10`` comes before ``Dense_2`` then, and is put right.
    """
    places = list(range(len(texts)))
    by_alphabet = len(texts) > 1 and texts == sorted(texts)
    if by_alphabet:
        places.sort(key=lambda k: _by_number(texts[k]))
    return places, by_alphabet


def _by_number(text: str) -> list[tuple[bool, int, str]]:
    parts = re.findall(r"\d+|\D+", text)
    return [(not x.isdigit(), int(x) if x.isdigit() else 0, x) for x in parts]
