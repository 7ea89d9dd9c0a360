"""Findings learned one after the other: what is trained, kept, resumed, refused, and pushed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from torch.nn import functional as F

from hf_clipalign import ClipAlignError
from hf_clipalign.backbones import as_dual_encoder, encode_texts
from hf_clipalign.data import (
    FindingLabels,
    FindingPrompts,
    IncrementalTask,
    class_incremental,
    joint,
    label_incremental,
)
from hf_clipalign.features import LabelledEmbeddings
from hf_clipalign.hub import check_card, push_folder
from hf_clipalign.hub.retune_folder import NOT_FOR_DIAGNOSIS, PUSHED
from hf_clipalign.losses import masked_bce_loss, retune_logits
from hf_clipalign.trainers import RETuneState, RETuneTrainer, RETuneTrainingArguments
from hf_clipalign.trainers.retune import updates
from hf_clipalign.trainers.retune.data import (
    Shuffled,
    check_same_task,
    targets,
    task_fingerprint,
    task_settings,
)
from hf_clipalign.tuners import EmbeddingSpace, RETuneConfig, adapt_image, adapt_text
from tests.hub.local_hub import OWNER, serve
from tests.processes import launch, run_script
from tests.tiny_models import tiny_clip, tiny_tokenizer
from tests.trainers.retune.runs import FINDINGS, PROMPTS, build, embeddings, weights

SCRIPT = Path(__file__).parent / "runs.py"


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_learns_all_tasks_and_moves_the_adapters_alone(tmp_path: Path) -> None:
    trainer = build(tmp_path, num_train_epochs=8, score="difference")
    before = {name: value.detach().clone() for name, value in trainer.learner.named_parameters()}
    output = trainer.train()
    for name, value in trainer.learner.named_parameters():
        assert torch.equal(value, before[name]) != value.requires_grad, name
    assert output.metrics["tasks"] == FINDINGS
    result = trainer.result
    assert result.matrix("auroc").shape == (3, 3)
    assert result.tasks == FINDINGS
    assert result.taught == [[name] for name in FINDINGS]
    diagonal = np.diag(result.matrix("auroc"))
    assert diagonal.mean() > 0.8 > result.zero_shot["macro_auroc"]
    flat = trainer.evaluate()
    assert flat["eval_macro_auroc"] == result.means[-1]["macro_auroc"]
    assert flat["eval_auroc_cat"] == result.scores["auroc"][-1][0]


@pytest.mark.parametrize("sides", ["both", "image", "text", "shared"])
def test_one_task_is_the_textbook_loop(tmp_path: Path, sides: str) -> None:
    """One finding, one batch, three epochs: Adam on the loss, written out."""
    data = embeddings(32)
    task = [IncrementalTask("dog", np.arange(32), ("dog",))]
    config = RETuneConfig(sides=sides)
    run = {"tasks": task, "train_dataset": data, "num_train_epochs": 3, "per_device_train_batch_size": 32}
    trainer = build(tmp_path, config=config, learning_rate=1e-3, eval_dataset=None, **run)
    trainer.train()

    base = tiny_clip()
    torch.manual_seed(0)
    model = get_peft_model(base, RETuneConfig(sides=sides))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    with torch.no_grad(), model.disable_adapter():
        encoder = as_dual_encoder(model)
        texts = [
            encode_texts(encoder, prompts["dog"], tiny_tokenizer("clip"), normalize=False)
            for prompts in (PROMPTS.positive, PROMPTS.negative)
        ]
    labels = torch.tensor(data.labels.values[:, 1:2])
    for _ in range(3):
        means = (adapt_text(model, part).mean(dim=0, keepdim=True) for part in texts)
        loss = masked_bce_loss(retune_logits(adapt_image(model, data.embeds), *means), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    expected = [p for p in model.parameters() if p.requires_grad]
    for found, value in zip(weights(trainer).values(), expected, strict=True):
        assert (found - value).abs().max() < 1e-5


class Stop(Exception):
    pass


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_a_stopped_run_goes_on_and_ends_the_same(tmp_path: Path, stop_after: int) -> None:
    whole = build(tmp_path / "whole")
    whole.train()

    stopped = build(tmp_path / "stopped")
    step, steps = stopped.training_step, []

    def dying(*args: Any, **kwargs: Any) -> Any:
        steps.append(None)
        if len(steps) > stop_after * 4 + 2:  # two epochs of two steps a task: in the middle of one
            raise Stop
        return step(*args, **kwargs)

    stopped.training_step = dying
    with pytest.raises(Stop):
        stopped.train()
    assert len(RETuneState(tmp_path / "stopped").tasks) == stop_after

    torch.manual_seed(5)
    resumed = build(tmp_path / "stopped", model=get_peft_model(tiny_clip(), RETuneConfig()))
    output = resumed.train(resume_from_checkpoint=True)
    assert output.metrics["tasks"] == FINDINGS[stop_after:]
    assert equal(weights(resumed), weights(whole))
    assert resumed.result == whole.result


def test_a_task_is_added_a_month_later(tmp_path: Path) -> None:
    tasks = class_incremental(embeddings().labels)
    whole = build(tmp_path / "whole", tasks=tasks)
    whole.train()
    build(tmp_path / "parts", tasks=tasks[:2]).train()
    later = build(tmp_path / "parts", tasks=tasks[2:], model=get_peft_model(tiny_clip(), RETuneConfig()))
    later.train()
    assert equal(weights(later), weights(whole))
    assert [entry["name"] for entry in later.state_folder.tasks] == FINDINGS
    assert later.result == whole.result


def test_scores_and_card_a_month_later_without_data(tmp_path: Path) -> None:
    trained = build(tmp_path)
    trained.train()
    nothing: dict[str, Any] = {"train_dataset": None, "eval_dataset": None}
    for prompts in (PROMPTS, PROMPTS.select(["cat"]), None):
        loaded = PeftModel.from_pretrained(tiny_clip(), tmp_path, is_trainable=True)
        later = build(tmp_path, prompts=prompts, model=loaded, **nothing)
        assert later.prompts.to_dict() == PROMPTS.to_dict()
        embeds = embeddings(8, seed=4).embeds
        assert torch.equal(later.scores(embeds)[0], trained.scores(embeds)[0])
        later.create_model_card()
        assert json.loads((tmp_path / "metrics.json").read_text())["tasks"] == FINDINGS
    alone = build(tmp_path / "new", prompts=PROMPTS.select(["cat"]), **nothing)
    assert alone.scores(embeds)[0].shape == (8, 1)


def test_from_the_adapter_alone_the_optimizer_starts_anew(tmp_path: Path) -> None:
    tasks = class_incremental(embeddings().labels)
    build(tmp_path / "first", tasks=tasks[:1]).train()
    loaded = PeftModel.from_pretrained(tiny_clip(), tmp_path / "first", is_trainable=True)
    alone = build(tmp_path / "second", tasks=tasks[1:2], model=loaded)
    alone.train()
    assert alone.prompts.findings == FINDINGS
    files = (tmp_path / "first", tmp_path / "second" / "tasks" / "start", tmp_path / "second")
    adapters = [load_file(folder / "adapter_model.safetensors") for folder in files]
    assert equal(adapters[0], adapters[1])
    assert not equal(adapters[1], adapters[2])
    carried, fresh = (
        build(tmp_path / f"carry {carry}", tasks=tasks[:2], carry_optimizer=carry) for carry in (True, False)
    )
    carried.train()
    fresh.train()
    assert not equal(weights(carried), weights(fresh))


def test_from_the_adapter_alone_what_it_has_learned_is_known(tmp_path: Path) -> None:
    """In a new folder, by a run that has data of the new finding only, and from the adapter after a task."""
    first = build(tmp_path / "first", tasks=class_incremental(embeddings().labels)[:2])
    first.train()
    owl = FindingPrompts.from_templates(["owl"], ["an {}"], ["no {}"])
    for source in (tmp_path / "first", tmp_path / "first" / "tasks" / "001"):
        new: dict[str, Any] = {"train_dataset": embeddings(findings=["owl"]), "eval_dataset": None, "prompts": owl}
        loaded = PeftModel.from_pretrained(tiny_clip(), source, is_trainable=True)
        folder = tmp_path / f"after {source.name}"
        later = build(folder, model=loaded, **new)
        later.train()
        assert later.prompts.findings == ["cat", "dog", "owl"]
        assert json.loads((folder / "prompts.json").read_text())["dog"] == PROMPTS.to_dict()["dog"]
        card = (folder / "README.md").read_text()
        assert "Findings learned before, in another run: cat, dog." in card
        assert "# RE-tune adapter: cat, dog, owl" in card
        assert "metrics.json" not in card
        assert list(RETuneConfig.from_pretrained(folder).learned) == ["cat", "dog", "owl"]
        again = build(folder, model=get_peft_model(tiny_clip(), RETuneConfig()), **new)
        assert again.train(resume_from_checkpoint=True).metrics["tasks"] == []
        assert list(again.learner.adapter_config.learned) == ["cat", "dog", "owl"]
    other = FindingPrompts.from_templates(["cat"], ["{}"], ["not {}"])
    with pytest.raises(ClipAlignError, match=r"'cat' are not those .* in the adapter: .*fresh adapter"):
        build(tmp_path / "other", model=loaded, **new | {"prompts": other, "train_dataset": None})


def test_a_new_finding_comes_later(tmp_path: Path) -> None:
    build(tmp_path).train()
    wider = [*FINDINGS, "owl"]
    data = embeddings(findings=wider)
    prompts = FindingPrompts.from_templates(["owl"], ["a {}"], ["no {}"])
    task = [IncrementalTask("owl", np.arange(40), ("owl",))]
    test = embeddings(80, 1)
    values = np.column_stack([test.labels.values, np.arange(80) % 2])
    grown = LabelledEmbeddings(test.embeds, FindingLabels(test.labels.ids, wider, values))
    later = build(tmp_path, train_dataset=data, eval_dataset=grown, tasks=task, prompts=prompts)
    later.train()
    assert later.prompts.findings == wider
    matrix = later.result.matrix("auroc")
    assert matrix.shape == (4, 4)
    assert np.isnan(matrix[:3, 3]).all()
    assert np.isfinite(matrix[3]).all()
    assert later.result.forgetting("auroc")["compared"] == FINDINGS
    assert set(later.result.zero_shot["auroc"]) == set(wider)
    alone = [IncrementalTask("owl again", np.arange(40), ("owl",))]
    part = build(tmp_path, train_dataset=data, eval_dataset=grown.select(findings=["owl"]), tasks=alone)
    part.train()
    assert np.isnan(part.result.matrix("auroc")[4]).tolist() == [True, True, True, False]
    assert part.result.forgetting("auroc")["compared"] == ["owl"]
    remark = "not measured: cat, dog, bird (after owl again), owl (after cat, dog, bird)"
    assert remark in part.result.table("auroc").caption
    card = (tmp_path / "README.md").read_text()
    assert remark in card
    assert "AUROC, mean over owl" in card


def test_other_test_data_and_other_scores_are_not_compared(tmp_path: Path) -> None:
    tasks = class_incremental(embeddings().labels)
    begun = build(tmp_path, tasks=tasks[:1])
    begun.train()
    before = begun.result.zero_shot["auroc"]
    later = build(tmp_path, tasks=tasks[1:], eval_dataset=embeddings(80, seed=2))
    later.train()
    assert later.result.forgetting("auroc")["compared"] == ["dog"]
    assert "on other test data than the rows above: cat, dog, bird (after dog)" in later.result.table("auroc").caption
    zero_shot = later.result.zero_shot["auroc"]
    assert zero_shot == later.measure(later.eval_dataset, adapted=False)["auroc"]
    assert zero_shot != before
    again = [IncrementalTask("more dogs", tasks[1].rows, ("dog",))]
    last = build(tmp_path, tasks=again, eval_dataset=embeddings(80, seed=2), score="difference")
    last.train()
    assert last.result.forgetting("auroc")["compared"] == []
    assert "by another score than the rows above: cat, dog, bird (after more dogs)" in last.result.table().caption


def test_learning_twice_is_refused_unless_asked(tmp_path: Path) -> None:
    build(tmp_path).train()
    with pytest.raises(ClipAlignError, match=r"'cat' was learned already.*resume_from_checkpoint=True.*relearn=True"):
        build(tmp_path).train()
    assert build(tmp_path).train(resume_from_checkpoint=True).metrics["tasks"] == []
    other = class_incremental(embeddings().labels, seed=5)
    with pytest.raises(ClipAlignError, match="other rows or labels"):
        build(tmp_path, tasks=other).train(resume_from_checkpoint=True)
    data = embeddings()
    moved = LabelledEmbeddings(data.embeds + torch.eye(len(data), 24), data.labels)
    with pytest.raises(ClipAlignError, match=r"'cat' was learned in .* from other embeddings"):
        build(tmp_path, train_dataset=moved).train(resume_from_checkpoint=True)
    rounded = LabelledEmbeddings(data.embeds * (1 + 1e-6), data.labels)  # as another machine would project them
    build(tmp_path, train_dataset=rounded).train(resume_from_checkpoint=True)
    with pytest.raises(ClipAlignError, match=r"learning_rate=0\.01, given now is 0\.1: give the same"):
        build(tmp_path, learning_rate=0.1).train(resume_from_checkpoint=True)
    with pytest.raises(ClipAlignError, match="relearn=True learns again what resume_from_checkpoint=True passes over"):
        build(tmp_path, relearn=True).train(resume_from_checkpoint=True)
    state = json.loads((tmp_path / "retune.json").read_text())
    older = [{name: value for name, value in entry.items() if name != "embeds"} for entry in state["tasks"]]
    (tmp_path / "retune.json").write_text(json.dumps({**state, "tasks": older}))
    build(tmp_path, train_dataset=moved).train(resume_from_checkpoint=True)  # it does not say which embeddings
    again = build(tmp_path, relearn=True, tasks=other[:1])
    again.train()
    assert [entry["name"] for entry in again.state_folder.tasks] == [*FINDINGS, "cat (again, task 3)"]


@pytest.mark.parametrize(
    "changed",
    [
        {"reset_step": 0.5},
        {"reset_threshold": 0.1},
        {"optim": "sgd"},
        {"lr_scheduler_type": "cosine"},
        {"warmup_steps": 3},
        {"weight_decay": 0.1},
        {"adam_beta1": 0.5},
        {"adam_beta2": 0.5},
        {"adam_epsilon": 1e-3},
        {"max_grad_norm": 1.0},
        {"dataloader_drop_last": True},
        {"uncertain": "ones"},
        {"seed": 5},
    ],
)
def test_every_setting_that_changes_the_result_is_compared(tmp_path: Path, changed: dict[str, Any]) -> None:
    before = RETuneTrainingArguments(str(tmp_path), use_cpu=True)
    task = IncrementalTask("cat", np.arange(40), ("cat",))
    data = embeddings()
    entry = {"data": task_fingerprint(data, task, before), "settings": json.loads(json.dumps(task_settings(before)))}
    check_same_task(entry, data, task, before, "run")
    after = RETuneTrainingArguments(str(tmp_path), use_cpu=True, **changed)
    (name,) = changed
    with pytest.raises(ClipAlignError, match=f"'cat' was learned in 'run' with {name}="):
        check_same_task(entry, data, task, after, "run")


def test_settings_without_influence_may_differ(tmp_path: Path) -> None:
    settings = [
        task_settings(RETuneTrainingArguments(str(tmp_path / name), use_cpu=True, **changed))
        for name, changed in {"a": {}, "b": {"logging_steps": 3, "hub_model_id": "me/x", "relearn": True}}.items()
    ]
    assert settings[0] == settings[1]


def test_another_model_adapter_or_prompt_is_refused(tmp_path: Path) -> None:
    build(tmp_path).train()
    other = tiny_clip(seed=7)
    with pytest.raises(ClipAlignError, match="another model"):
        build(tmp_path / "new", base=other)
    unnamed = LabelledEmbeddings(embeddings().embeds, embeddings().labels)
    with pytest.raises(ClipAlignError, match="begun with another model"):
        build(tmp_path, base=other, train_dataset=unnamed, eval_dataset=None)
    with pytest.raises(ClipAlignError, match="adapter='mlp'"):
        build(tmp_path, config=RETuneConfig(adapter="linear"))
    prompts = FindingPrompts.from_templates(FINDINGS, ["{}"], ["no {}"])
    with pytest.raises(ClipAlignError, match="prompts of 'cat'"):
        build(tmp_path, prompts=prompts)


def test_the_state_survives_damage_with_words(tmp_path: Path) -> None:
    (tmp_path / "retune.json").write_text("{")
    with pytest.raises(ClipAlignError, match=r"retune\.json: cannot be read"):
        build(tmp_path)
    (tmp_path / "retune.json").write_text('{"format": 9}')
    with pytest.raises(ClipAlignError, match="format 9"):
        build(tmp_path)
    for partial in ('{"format": 1}', "[]"):
        (tmp_path / "retune.json").write_text(partial)
        with pytest.raises(ClipAlignError, match=r"retune\.json: cannot be read"):
            build(tmp_path)


def test_prompts_are_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = build(tmp_path)
    calls: list[int] = []
    monkeypatch.setattr(type(trainer.learner.encoder.model.text_model), "forward", lambda *a, **k: calls.append(1))
    trainer.train()
    assert not calls
    assert len(trainer.learner.texts) == 12


def test_scores_are_the_reference_formula(tmp_path: Path) -> None:
    trainer = build(tmp_path, score="difference")
    data = embeddings(7)
    scores, labels = trainer.scores(data.embeds)
    with torch.no_grad():
        positive = torch.cat(
            [adapt_text(trainer.peft_model, trainer.learner.texts[i : i + 2]).mean(0)[None] for i in (0, 4, 8)]
        )
        negative = torch.cat(
            [adapt_text(trainer.peft_model, trainer.learner.texts[i : i + 2]).mean(0)[None] for i in (2, 6, 10)]
        )
        images = adapt_image(trainer.peft_model, data.embeds)
    cosines = [F.cosine_similarity(images[:, None], side, dim=-1) for side in (positive, negative)]
    assert torch.allclose(scores, (cosines[0] - cosines[1] + 2) / 4, atol=1e-6)
    assert torch.equal(labels, cosines[0] > cosines[1])


def test_on_an_embedding_space_as_on_the_model(tmp_path: Path) -> None:
    first = build(tmp_path / "clip")
    first.train()
    second = build(tmp_path / "space", base=EmbeddingSpace(24), encoder=tiny_clip())
    second.train()
    assert all(torch.equal(a, b) for a, b in zip(weights(first).values(), weights(second).values(), strict=True))
    with pytest.raises(ClipAlignError, match="encoder"):
        build(tmp_path / "none", base=EmbeddingSpace(24))

    def encode(texts: list[str]) -> torch.Tensor:
        return encode_texts(tiny_clip(), texts, tiny_tokenizer("clip"), normalize=False)

    third = build(tmp_path / "third", base=EmbeddingSpace(24), processing_class=None, encode_prompts=encode)
    third.train()
    assert equal(weights(third), weights(second))
    with pytest.raises(ClipAlignError, match=r"\(12, 24\)"):
        build(tmp_path / "fourth", base=EmbeddingSpace(24), encode_prompts=lambda texts: torch.ones(1, 24))


def test_unknown_labels_and_policies(tmp_path: Path) -> None:
    data = embeddings()
    data.labels.values[:10] = -1
    data.labels.values[10:20] = np.nan
    args = RETuneTrainingArguments(str(tmp_path), uncertain='{"dog": "ones", "cat": "zeros"}', missing="zeros")
    (task,) = joint(data.labels)
    found = targets(data, task, args)
    assert found[:10].nan_to_num(nan=9).tolist() == [[0.0, 1.0, 9.0]] * 10
    assert not found[10:20].any()
    trainer = build(
        tmp_path,
        train_dataset=data,
        eval_dataset=embeddings(80, seed=1).select(findings=["cat"]),
        uncertain={"dog": "ones"},
    )
    trainer.train()
    assert trainer.result.findings == ["cat"]
    invented = build(tmp_path / "zeros", train_dataset=data, uncertain="ones", missing="zeros")
    assert invented.measure(data)["known"] == dict.fromkeys(FINDINGS, 76)


def test_bfloat16_and_reset_rule_run(tmp_path: Path) -> None:
    plain, reset = build(tmp_path / "a"), build(tmp_path / "b", reset_threshold=0.5)
    for trainer in (plain, reset, build(tmp_path / "c", bf16=True)):
        trainer.train()
        assert all(value.isfinite().all() for value in weights(trainer).values())
    start = PeftModel.from_pretrained(tiny_clip(), tmp_path / "b" / "tasks" / "start")
    before = {name: p for name, p in start.named_parameters() if "clip_retune" in name}
    kept = [bool((value == before[name.removeprefix("model.")]).any()) for name, value in weights(reset).items()]
    assert any(kept)
    assert not equal(weights(plain), weights(reset))


def test_order_of_the_data_depends_on_task_and_epoch() -> None:
    one, two = Shuffled(50, 1), Shuffled(50, 2)
    first, second = list(one), list(one)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert first != list(two)
    assert list(Shuffled(50, 1)) == first


def test_the_output_folder(tmp_path: Path) -> None:
    trainer = build(tmp_path)
    trainer.train()
    trainer.create_model_card(command="python train.py")
    names = {path.name for path in tmp_path.iterdir()} - {".retune.lock"}
    assert names == {*PUSHED, "retune.json", "tasks"}
    assert {p.parent.name for p in tmp_path.rglob("tasks/*/adapter_model.safetensors")} == {
        "start",
        "000",
        "001",
        "002",
    }
    assert [p.parent.name for p in tmp_path.rglob("optimizer.safetensors")] == ["002"]
    card = (tmp_path / "README.md").read_text()
    check_card(card)
    assert NOT_FOR_DIAGNOSIS in card
    assert "python train.py" in card
    assert "after bird" in card
    assert json.loads((tmp_path / "prompts.json").read_text()) == PROMPTS.to_dict()
    loaded = PeftModel.from_pretrained(tiny_clip(), tmp_path)
    embeds = embeddings(3).embeds
    assert torch.allclose(adapt_image(loaded, embeds), adapt_image(trainer.peft_model, embeds), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"save_strategy": "epoch"}, "save_strategy"),
        ({"push_to_hub": True}, r"trainer\.push_to_hub"),
        ({"uncertain": "maybe"}, "no policy 'maybe'"),
        ({"missing": '{"a": '}, "no JSON"),
        ({"score": "both"}, "score='both'"),
        ({"reset_threshold": 2.0}, "reset_threshold"),
        ({"remove_unused_columns": True}, "remove_unused_columns"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps must be 1"),
    ],
)
def test_settings_that_contradict(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ClipAlignError, match=message):
        RETuneTrainingArguments(str(tmp_path), **changes)


def test_the_threshold_of_the_reset_rule_grows_with_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    thresholds: list[float] = []

    def undo(before: Any, after: Any, threshold: float) -> Any:
        thresholds.append(threshold)
        return after

    monkeypatch.setattr(updates, "undo_small_updates", undo)
    rule, model = updates.SmallUpdates(0.25, 0.5), torch.nn.Linear(1, 1)
    for _ in range(2):
        rule.on_train_begin(None, None, None)
        for _ in range(3):
            rule.on_epoch_begin(None, None, None, model=model)
            rule.on_epoch_end(None, None, None, model=model)
    assert thresholds == [0.25, 0.75, 1.25] * 2


def test_bad_input(tmp_path: Path) -> None:
    data = embeddings()
    none = embeddings()
    none.labels.values[:, 2] = 0
    with pytest.raises(ClipAlignError, match=r"'bird' has no positive|no positive example of 'bird'"):
        build(tmp_path, train_dataset=none)
    with pytest.raises(ClipAlignError, match="no prompts for 'bird'"):
        build(tmp_path, prompts=PROMPTS.select(["cat", "dog"]))
    with pytest.raises(ClipAlignError, match="24"):
        build(tmp_path, train_dataset=LabelledEmbeddings(torch.ones(96, 48), data.labels), eval_dataset=None)
    with pytest.raises(ClipAlignError, match="LabelledEmbeddings, got Tensor"):
        build(tmp_path, train_dataset=data.embeds, tasks=[])
    task = IncrementalTask("cat", np.arange(96), ("cat",))
    with pytest.raises(ClipAlignError, match="two tasks are called 'cat'"):
        build(tmp_path, tasks=[task, task])
    with pytest.raises(ClipAlignError, match="96 of the data"):
        build(tmp_path, tasks=[IncrementalTask("cat", np.array([96]), ("cat",))])
    with pytest.raises(ClipAlignError, match="no rows, or some that"):
        build(tmp_path, tasks=[IncrementalTask("cat", np.array([]), ("cat",))])
    for policy in ("uncertain", "missing"):
        with pytest.raises(ClipAlignError, match=f"{policy}: no finding 'catt'; there are 'cat', 'dog', 'bird'"):
            build(tmp_path, **{policy: '{"catt": "ones"}'})
    with pytest.raises(ClipAlignError, match="nothing to learn from"):
        build(tmp_path, train_dataset=None).train()
    with pytest.raises(ClipAlignError, match="no test data"):
        build(tmp_path, eval_dataset=None).evaluate()
    with pytest.raises(ClipAlignError, match="do not fill one batch of 100"):
        build(tmp_path, dataloader_drop_last=True, per_device_train_batch_size=100)
    with pytest.raises(ClipAlignError, match="not a path"):
        build(tmp_path, scenario="/home/alice/chest")
    trainer = build(tmp_path)
    with pytest.raises(ClipAlignError, match=r"findings is the text 'cat': give a list"):
        trainer.scores(data.embeds, "cat")
    with pytest.raises(ClipAlignError, match="embeds is of type ndarray"):
        trainer.scores(data.embeds.numpy())
    with pytest.raises(ClipAlignError, match="NaN or infinite"):
        trainer.scores(data.embeds / 0)
    with pytest.raises(ClipAlignError, match="LabelledEmbeddings, got dict"):
        trainer.evaluate({"a": data})
    with pytest.raises(ClipAlignError, match=r"trainer\.scores"):
        trainer.predict(data)
    with pytest.raises(ClipAlignError, match="without a RE-tune adapter"):
        RETuneTrainer(tiny_clip(), processing_class=tiny_tokenizer("clip"))
    with pytest.raises(ClipAlignError, match="processing_class"):
        build(tmp_path, processing_class=None)
    with pytest.raises(ClipAlignError, match="repo_id"):
        build(tmp_path).push_to_hub()
    with pytest.raises(ClipAlignError, match="base_model='owner/name'"):
        build(tmp_path).push_to_hub(repo_id="me/adapter")


def test_modules_to_save_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ClipAlignError, match=r"modules_to_save=\['post_layernorm'\] would stay as they are") as told:
        build(tmp_path, config=RETuneConfig(modules_to_save=["post_layernorm"]))
    assert len(str(told.value).splitlines()) == 1
    for sides, head in (("both", "visual_projection"), ("shared", "visual_projection"), ("text", "text_projection")):
        with pytest.raises(ClipAlignError, match=f"would train '{head}', which the adapter stands behind"):
            get_peft_model(tiny_clip(), RETuneConfig(sides=sides, modules_to_save=[head]))


def test_a_loss_that_is_not_finite_stops(tmp_path: Path) -> None:
    with pytest.raises(ClipAlignError, match="the loss is nan"):
        build(tmp_path, learning_rate=1e38, num_train_epochs=3).train()


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    trainer = build(tmp_path)
    with trainer.state_folder.held(), pytest.raises(ClipAlignError, match="another run"):
        build(tmp_path).train()


@pytest.mark.slow
def test_two_processes_are_one_with_the_doubled_batch(tmp_path: Path) -> None:
    found = []
    for processes, batch in ((1, 16), (2, 8)):
        found.append(run_script(SCRIPT, "processes", batch, tmp_path / str(processes), processes=processes))
    one, two = found
    assert (one["processes"], two["processes"]) == (1, 2)
    for name, value in one["weights"].items():
        assert np.abs(np.array(value) - np.array(two["weights"][name])).max() < 1e-5
    assert two["means"][-1]["macro_auroc"] == pytest.approx(one["means"][-1]["macro_auroc"], abs=1e-4)


@pytest.mark.slow
def test_a_push_uploads_adapter_prompts_scores_and_card_alone(tmp_path: Path) -> None:
    repo_id = f"{OWNER}/chest"
    with serve() as (hub, address):
        hub.add(f"{OWNER}/tiny-clip", {"README.md": b"---\nlicense: mit\n---\n"})
        settings = {"HF_ENDPOINT": address, "HF_TOKEN": "hf_writer", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        launch(SCRIPT, "push", repo_id, tmp_path / "run", HF_HOME=str(tmp_path / "home"), **settings)
        repo = hub.repos[repo_id]
        files = repo.files()
        uploads = [path for method, path, _ in hub.log if method in ("POST", "PUT") and "/commit/" in path]
        by_command, of_task = (hub.repos[f"{repo_id}-{name}"].files() for name in ("run", "task"))
    assert set(files) == set(by_command) == set(PUSHED)
    assert set(of_task) == set(PUSHED) - {"metrics.json"}
    assert len(uploads) == 3
    assert repo.private
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"features.safetensors", "patients.csv", "tasks"}
    for name, content in [*files.items(), *by_command.items(), *of_task.items()]:
        for private in (b"patient0", str(tmp_path).encode(), b"x.csv", b"/opt"):
            assert private not in content, name
    assert NOT_FOR_DIAGNOSIS in of_task["README.md"].decode()
    assert "learned: bird, cat, dog." in of_task["README.md"].decode()
    card = files["README.md"].decode()
    assert "python train.py --features … --labels=… --lr 1e-3\n" in card
    data = check_card(card)
    assert (data.base_model, data.license) == (f"{OWNER}/tiny-clip", "mit")
    assert {"retune", "arxiv:2410.17827", "multi-label"} <= set(data.tags)
    assert NOT_FOR_DIAGNOSIS in card
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == f"{OWNER}/tiny-clip"


def test_a_push_of_another_folder_of_the_run_is_refused(tmp_path: Path) -> None:
    """Before anything is sent: the folder of several runs, and an adapter of a base model on this machine."""
    adapter = tmp_path / "runs" / "class-incremental"
    adapter.mkdir(parents=True)
    (adapter / "adapter_model.safetensors").touch()
    config = RETuneConfig(base_model_name_or_path=str(tmp_path))
    config.save_pretrained(adapter)
    with pytest.raises(ClipAlignError, match=r"holds a run of RE-tune \(.*class-incremental\), of which nothing but"):
        push_folder(tmp_path / "runs", f"{OWNER}/chest")
    with pytest.raises(ClipAlignError, match="is not on the Hub, so nobody else could load it"):
        push_folder(adapter, f"{OWNER}/chest")


def test_label_incremental_keeps_what_it_sees(tmp_path: Path) -> None:
    tasks = label_incremental(embeddings().labels)
    trainer = build(tmp_path, tasks=tasks, num_train_epochs=8, score="difference")
    trainer.train()
    assert trainer.result.learned_at == [0, 1, 2]
    assert trainer.result.means[-1]["macro_auroc"] > 0.75


@pytest.mark.parametrize(
    ("damage", "place"),
    [
        ({"tasks": [{"name": "cat"}]}, r"no 'findings' in tasks\[0\]"),
        ({"tasks": [[]]}, r"tasks\[0\] is"),
        ({"prompts": {"cat": {"positive": 3, "negative": []}}}, "prompts is"),
        ({"model": {"name": None}}, "no 'weights' in model"),
        ({"before": {"a": 1}}, "before is"),
        ({"result": 3}, "result is 3"),
    ],
)
def test_a_damaged_state_says_where(damage: dict[str, Any], place: str, tmp_path: Path) -> None:
    sound = {"format": 1, "model": None, "adapter": None, "prompts": {}, "tasks": []}
    (tmp_path / "retune.json").write_text(json.dumps(sound))
    assert RETuneState(tmp_path).tasks == []
    (tmp_path / "retune.json").write_text(json.dumps({**sound, **damage}))
    with pytest.raises(ClipAlignError, match=place):
        RETuneState(tmp_path)
