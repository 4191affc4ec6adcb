"""Write the inventories that the documentation links with: ``python docs/inventories/make.py``."""

import zlib
from pathlib import Path

HERE = Path(__file__).parent
HEADER = (
    "# Sphinx inventory version 2\n# Project: {}\n# Version: \n# The remainder of this file is compressed using zlib.\n"
)

PYTHON = {
    "py:class": {
        "bool": "library/functions.html",
        "dict": "library/stdtypes.html",
        "float": "library/functions.html",
        "int": "library/functions.html",
        "list": "library/stdtypes.html",
        "object": "library/functions.html",
        "str": "library/stdtypes.html",
        "tuple": "library/stdtypes.html",
        "set": "library/stdtypes.html",
        "frozenset": "library/stdtypes.html",
        "type": "library/functions.html",
        "collections.abc.Callable": "library/collections.abc.html",
        "collections.abc.Collection": "library/collections.abc.html",
        "collections.abc.Iterable": "library/collections.abc.html",
        "collections.abc.Iterator": "library/collections.abc.html",
        "collections.abc.Mapping": "library/collections.abc.html",
        "collections.abc.Sequence": "library/collections.abc.html",
        "pathlib.Path": "library/pathlib.html",
    },
    "py:data": {
        "None": "library/constants.html",
        "True": "library/constants.html",
        "False": "library/constants.html",
        "typing.Any": "library/typing.html",
    },
    "py:exception": {
        "ImportError": "library/exceptions.html",
        "KeyError": "library/exceptions.html",
        "TypeError": "library/exceptions.html",
        "ValueError": "library/exceptions.html",
    },
}
NUMPY = {"py:class": {"numpy.ndarray": "reference/generated/numpy.ndarray.html"}}
TORCH = {
    "py:class": {
        "torch.Tensor": "tensors.html",
        "torch.Generator": "generated/torch.Generator.html",
        "torch.device": "tensor_attributes.html",
        "torch.dtype": "tensor_attributes.html",
        "torch.nn.Module": "generated/torch.nn.Module.html",
    }
}
ASE = {
    "py:class": {
        "ase.Atoms": "ase/atoms.html",
        "ase.calculators.calculator.Calculator": "ase/calculators/calculators.html",
    }
}


def write(name: str, roles: dict[str, dict[str, str]]) -> None:
    """Write one inventory: role, name and page of each object; the anchor on the page is the name."""
    lines = [f"{thing} {role} 1 {page}#$ -\n" for role, pages in roles.items() for thing, page in pages.items()]
    body = zlib.compress("".join(lines).encode(), 9)
    (HERE / f"{name}.inv").write_bytes(HEADER.format(name).encode() + body)


if __name__ == "__main__":
    for project, objects in {"python": PYTHON, "numpy": NUMPY, "torch": TORCH, "ase": ASE}.items():
        write(project, objects)
