"""Plan files that are refused: the content, and a part of the message."""

from __future__ import annotations

from tp_vgg.pruning.ratios import MAX_BYTES

REFUSED = {
    "not json": ("{features.0: 0.1}", "not JSON"),
    "empty": ("", "not JSON"),
    "not utf-8": (b"\xff\xfe\x00{", "not UTF-8"),
    "nested too deep": ("[" * 100_000, "not JSON"),
    "endless number": ('{"features.0": ' + "1" * 5000 + "}", "too long"),
    "a list": ([0.1, 0.2], "must be an object"),
    "a number": ("0.5", "must be an object"),
    "duplicate key": ('{"features.0": 0.1, "features.0": 0.2}', "features.0: named twice"),
    "nan": ('{"features.0": NaN}', "NaN is not a number"),
    "infinity": ('{"features.0": Infinity}', "Infinity is not a number"),
    "minus infinity": ('{"features.0": -Infinity}', "-Infinity is not a number"),
    "overflow to infinity": ('{"features.0": 1e999}', "1 or more"),
    "bool": ({"features.0": True}, "got a boolean"),
    "string": ({"features.0": "0.5"}, "got a string"),
    "list": ({"features.0": [0.5]}, "got a list"),
    "object": ({"features.0": {"ratio": 0.5}}, "got an object"),
    "null": ({"features.0": None}, "got null"),
    "negative": ({"features.0": -0.1}, "is negative"),
    "one": ({"features.0": 1}, "1 is too large"),
    "above one": ({"features.0": 1.5}, "1.5 is too large"),
    "unknown layer": ({"features.1": 0.5}, "no prunable layer of vgg11_bn.*nearest: features"),
    "unknown layer with a newline": ({"features\n.0": 0.5}, "no prunable layer"),
    "last linear": ({"classifier.6": 0.5}, "the last linear layer"),
    "every channel": ({"features.0": 0.995}, "would remove all 64 channels"),
    "too large": (" " * (MAX_BYTES + 1), "over 1 MiB"),
}
