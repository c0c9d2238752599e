"""A file that is no checkpoint is recognised here by its first bytes or its archive's members.

So its refusal can say what the file is. Nothing in it is interpreted.
"""

from __future__ import annotations

from collections.abc import Collection

HEAD = 512
"""Number of first bytes that :func:`other_format` looks at."""
_STARTS = {
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"BZh": "a bzip2 archive; unpack it first",
    b"\xfd7zXZ\x00": "an xz archive; unpack it first",
    b"\x28\xb5\x2f\xfd": "a zstd archive; unpack it first",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive; unpack it first",
    b"Rar!": "a RAR archive; unpack it first",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, such as Keras writes; give a PyTorch state dict",
    b"\x93NUMPY": "a NumPy array (.npy); give a state dict that torch.save wrote",
    b"GGUF": "a GGUF file; give a state dict that torch.save wrote",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run: git lfs pull",
}
_MEMBERS = {
    "constants.pkl": "a TorchScript program; save its state_dict: "
    "torch.save(torch.jit.load(PATH).state_dict(), 'plain.pth')",
    "archive_format": "a torch.export program; save its state_dict: "
    "torch.save(torch.export.load(PATH).state_dict, 'plain.pth')",
    "serialized_exported_program.json": "a torch.export program; save its state_dict: "
    "torch.save(torch.export.load(PATH).state_dict, 'plain.pth')",
    "model.weights.h5": "a Keras file; give a PyTorch state dict",
}


def other_format(start: bytes) -> str | None:
    """Return what a file is, with the fix, by its first :data:`HEAD` bytes; None if unknown."""
    if not start:
        return "an empty file; copy or download it again"
    for beginning, text in _STARTS.items():
        if start.startswith(beginning):
            return text
    if start[257:262] == b"ustar":
        return "a tar archive; unpack it first and give the file in it"
    if start.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "an HTML page, such as a failed download leaves; download the file again"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32:
        return "a safetensors file; rename it so that it ends in .safetensors"
    # An ONNX file is a protobuf: its version (field 1, a small number), then the producer's name
    # (field 2) or the graph (field 7).
    if start[:1] == b"\x08" and start[1:2] < b"\x20" and start[2:3] in (b"\x12", b"\x3a"):
        return "an ONNX file; give the PyTorch state dict that it was made from"
    if start[4:8] == b"TFL3":
        return "a TensorFlow Lite file; give a PyTorch state dict"
    return None


def other_archive(members: Collection[str]) -> str | None:
    """Return what a zip archive is, with the fix, by its members' names; None if torch wrote it."""
    last = {name.rpartition("/")[2] for name in members}
    for name, text in _MEMBERS.items():
        if name in last:
            return text
    if members and all(name.endswith(".npy") for name in last):
        return "NumPy arrays (.npz); give a state dict that torch.save wrote"
    if "data.pkl" not in last:
        return "a zip archive that torch.save did not write; unpack it first if it holds the file"
    return None
