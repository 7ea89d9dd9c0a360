"""Embeddings of prompts from a file, and never from the file of something else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hf_clipalign import ClipAlignError
from hf_clipalign.backbones import encode_texts
from hf_clipalign.data import load_mini
from hf_clipalign.features import text_embeddings

PROMPTS = ["an emoji of fox", "an emoji of owl"]


def test_a_second_call_reads_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mini, file = load_mini(), tmp_path / "texts.safetensors"
    first = text_embeddings(mini.student, mini.student_processor, PROMPTS, file)
    with torch.no_grad():
        expected = encode_texts(mini.student, PROMPTS, mini.student_processor)
    torch.testing.assert_close(first, expected)
    monkeypatch.setattr("hf_clipalign.features.text_cache.encode_texts", None)
    torch.testing.assert_close(text_embeddings(mini.student, mini.student_processor, PROMPTS, file), first)


def test_other_prompts_and_weights_are_told_and_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mini, file = load_mini(), tmp_path / "texts.safetensors"
    student = text_embeddings(mini.student, mini.student_processor, PROMPTS, file)
    assert not caplog.text
    swapped = text_embeddings(mini.student, mini.student_processor, PROMPTS[::-1], file)
    torch.testing.assert_close(swapped, student.flip(0))
    assert "texts.safetensors was made with other prompts (sha256: " in caplog.text
    caplog.clear()
    teacher = text_embeddings(mini.teacher, mini.teacher_processor, PROMPTS, file)
    torch.testing.assert_close(teacher, text_embeddings(mini.teacher, mini.teacher_processor, PROMPTS))
    assert "another model's weights" in caplog.text


def test_a_cut_file_is_made_anew_and_a_foreign_one_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mini, file = load_mini(), tmp_path / "texts.safetensors"
    student = text_embeddings(mini.student, mini.student_processor, PROMPTS, file)
    file.write_bytes(file.read_bytes()[:-1])
    again = text_embeddings(mini.student, mini.student_processor, PROMPTS, file)
    torch.testing.assert_close(again, student)
    assert "texts.safetensors is damaged" in caplog.text
    file.write_bytes(b"half a file")
    with pytest.raises(ClipAlignError, match="delete it, or name another file"):
        text_embeddings(mini.student, mini.student_processor, PROMPTS, file)
    assert file.read_bytes() == b"half a file"
