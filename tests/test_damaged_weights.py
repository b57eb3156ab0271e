"""Files that are no weights: text, bytes and tensors of other axes end with one line, whatever torch's reader runs into."""

from pathlib import Path

import pytest
import torch

from raypro.config import InputError
from raypro.core.imports import read_cpcprot, read_tensors

NO_WEIGHTS = (
    b"sequence\tfamily\nMKV\ta\n",
    b"README\n",
    b"the weights\n",
    b"bert",
    b"tokens",
    b"hello",
    b">p1\nMKV\n",
    b'{"a": 1}',
    b"]",
    b"q\x05",
    b"\x80\x02X",
    b"PK\x03\x04",
)


@pytest.mark.parametrize("content", NO_WEIGHTS)
def test_a_file_that_is_no_weights_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "best.ckpt").write_bytes(content)
    with pytest.raises(InputError, match=r"best.ckpt: damaged, or holds more than tensors") as refused:
        read_tensors(tmp_path / "best.ckpt")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "weights",
    [
        {"enc.embedding.weight": torch.zeros(30)},
        {"enc.embedding.weight": torch.zeros(30, 4, 1)},
        {"enc.embedding.weight": torch.tensor(1.0)},
        {"enc.embedding.weight": torch.zeros(30, 4), "enc.conv1.weight": torch.zeros(8)},
        {"enc.embedding.weight": torch.zeros(30, 4), "enc.conv1.weight": torch.zeros(8, 4)},
        {"enc.embedding.weight": torch.zeros(30, 4), "enc.conv1.weight": torch.tensor(1.0)},
        {"enc.embedding.weight": torch.zeros(30, 0), "enc.conv1.weight": torch.zeros(0, 0, 11)},
    ],
)
def test_tensors_of_other_axes_are_refused_in_one_line(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "best.ckpt")
    with pytest.raises(InputError, match=r"best.ckpt: not the weights of a CPCProt encoder") as refused:
        read_cpcprot(tmp_path / "best.ckpt")
    assert "\n" not in str(refused.value)
