"""What is masked in commands and texts, and what stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_clipalign._io.masking import describe_run, is_hub_id, mask, mask_secrets, public_name, without_paths
from hf_clipalign.evaluation import IncrementalResult, ReportTable, ResultTable, Section, write_report

TOKEN = "hf_" + "AbCdEf0123456789" * 2
PATHS = [
    "/home/alice/mrn123",
    "../data/mrn123",
    "./mrn123",
    "data/mrn123",
    "data/mrn123.csv",
    "runs/mrn123/chest",
    "~/mrn123",
    "~alice/mrn123",
    r"C:\Users\alice\mrn123",
    "C:/Users/alice/mrn123",
    r"\\share\mrn123",
    r"data\mrn123",
    "file:///home/alice/mrn123",
    "file:mrn123",
]


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (
            "python examples/train_retune.py --features /home/alice/patient_0815/",
            "python train_retune.py --features …",
        ),
        ("train --model me/clip --out ~/x --labels=a.csv tests", "train --model me/clip --out … --labels=… …"),
        (r"python a.py --features C:\Users\alice --seed 3 --shuffle", "python a.py --features … --seed 3 --shuffle"),
        ("""a.py --uncertain '{"Edema": "ones"}' --lr 1e-4""", """a.py --uncertain '{"Edema": "ones"}' --lr 1e-4"""),
        ("HF_HOME=/home/alice python a.py --note=/home/a=b -o/x -v", "HF_HOME=… python a.py --note=… … -v"),
        ("a.py --labels 'open", ""),
        ("clipalign trim --out me/x --output_dir=me/y -o me/z", "clipalign trim --out … --output_dir=… -o …"),
        ("a.py --image-band 1,48 --ratio 3/4 --tokenizer me/tok --n_tokens 3 --push_to_hub", None),
        ("a.py --student google/siglip2-base-patch16-224 --url https://hf.co/x --note 'a photo / of {}'", None),
        ("a.py --list '/srv/our models/mrn' --b 'our data/x y.csv'", "a.py --list … --b …"),
        (["a.py", "--paths", '["/x/mrn"]'], "a.py --paths …"),
    ],
)
def test_commands(command: str | list[str], shown: str | None) -> None:
    assert describe_run(command) == (command if shown is None else shown)


@pytest.mark.parametrize(
    "command",
    [
        "a.py --hub_token {}",
        "a.py --hub_token={}",
        "a.py --token {} --lr 1",
        "a.py --hub-token '{}'",
        "a.py -t {}",
        "HF_TOKEN={} python a.py",
        "export HUGGING_FACE_HUB_TOKEN={}; a.py",
        "WANDB_API_KEY={} AWS_SECRET_ACCESS_KEY={} python a.py",
        "env DB_PASSWORD={} a.py --api-key {} --client_secret={}",
        "sh -c 'HF_TOKEN={} python a.py --hub_token {}'",
        """a.py --config '{{"hub_token": "{}"}}'""",
        "a.py --endpoint https://user:{}@hub.example/x",
        "curl -H 'Authorization: Bearer {}'",
    ],
)
@pytest.mark.parametrize("secret", [TOKEN, "abc", "s3cr3t/with-slash"])
def test_secrets_by_name(command: str, secret: str) -> None:
    if ("Bearer" in command and secret == "abc") or ("://" in command and "/" in secret):
        return  # a word after "bearer"; no address
    line = command.format(*[secret] * command.count("{}"))
    for shown in (describe_run(line), describe_run(line) if " -t " in line else mask(line)):
        assert shown
        assert secret not in shown.replace("a.py", "")


@pytest.mark.parametrize(
    "token",
    [
        TOKEN,
        "hf_Ab1cdef",
        "ghp_" + "a1" * 18,
        "sk-" + "a" * 24,
        "AKIA" + "A" * 16,
        "glpat-" + "x" * 20,
        "xoxb-1234567890",
    ],
)
@pytest.mark.parametrize("text", ["{}", "a {} b", "https://x.y/?q={}&z", "name={},", "({})", "me/{}", "x_{}"])
def test_secrets_by_shape(token: str, text: str) -> None:
    assert token not in mask_secrets(text.format(token))
    assert token not in describe_run(["a.py", "--note", text.format(token)])


def test_what_is_no_secret() -> None:
    for text in ("hf_clipalign and hf_datasets", "the token is long", "a key: value", "tokens = 3", "keyed by name"):
        assert mask_secrets(text) == text


@pytest.mark.parametrize("path", PATHS)
def test_paths_in_every_spelling(path: str) -> None:
    for text in ("{}", "see {}.", "`x --d {}`", "({})", '"{}"', "on {}, twice", "a={}"):
        assert "mrn123" not in mask(text.format(path)), text
        assert "alice" not in mask(text.format(path)), text
    for command in ("a.py {}", "a.py --data {}", "a.py --data={}", "DATA={} a.py", "a.py -d{}", "a.py --x 'k v={}'"):
        assert "mrn123" not in describe_run(command.format(path)), command


def test_what_is_here_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert describe_run("a.py --model owner/name owner") == "a.py --model owner/name owner"
    monkeypatch.chdir(tmp_path)
    assert describe_run("a.py --model owner/name owner") == "a.py --model … …"
    assert mask("of owner/name.") == "of …."
    assert public_name("owner/name") == "name"


@pytest.mark.parametrize(
    "text",
    [
        "and/or, base/novel 24/7 on 1/2/2024",
        "openai/clip-vit-base-patch32 at https://hf.co/a/b/c",
        "10 %/90 %",
        "a / b",
    ],
)
def test_words_that_stay(text: str) -> None:
    assert mask(text) == text


def test_names_and_values_of_files() -> None:
    given = {
        "hub_token": "abc",
        "n": 3,
        "list": ["/home/x", "me/clip"],
        "more": {"HF_TOKEN": "x", "note": f"is {TOKEN}"},
    }
    assert without_paths(given) == {
        "hub_token": "…",
        "n": 3,
        "list": ["…", "me/clip"],
        "more": {"HF_TOKEN": "…", "note": "is …"},
    }
    names = ("/home/a/clip", "me/clip", "data/clip", r"C:\x\clip", "~bob/clip/", "file:///a/clip", None)
    assert [public_name(name) for name in names] == ["clip", "me/clip", "clip", "clip", "clip", "clip", ""]
    assert TOKEN not in public_name(f"/x/{TOKEN}") + public_name(f"me/{TOKEN}")
    assert describe_run("a.py", {"HF_TOKEN": "abc", "LR": "1"}) == "HF_TOKEN=… LR=1 a.py"


@pytest.mark.parametrize("name", ["a/b", "openai/clip-vit-base-patch32", "BAAI/bge-small-en-v1.5", "a_b/c.d"])
def test_hub_ids(name: str) -> None:
    assert is_hub_id(name)


@pytest.mark.parametrize(
    "name", ["a", "a/b/c", "/a/b", "a/..", "a b/c", "a/b.git", "a--b/c", "a/b\n", "ä/b", None, "a/"]
)
def test_no_hub_ids(name: str | None) -> None:
    assert not is_hub_id(name)


def test_no_result_that_is_written_holds_a_token(tmp_path):
    token = "hf_" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7cF0eR3t"
    table = ResultTable(f"A {token}", note=f"`train.py --hub_token {token}` with HF_TOKEN={token}")
    table.add("raw", {"base": 0.5})
    for ending in ("md", "json", "csv"):
        table.save(tmp_path / f"table.{ending}")
    assert ResultTable.from_json(table.to_json()).scores == table.scores
    cells = ReportTable(["method"], [[token]], token)
    write_report(tmp_path / "page.html", token, [Section(token, text=[token], tables=[cells])], f"--token={token}")
    (tmp_path / "result.json").write_text(IncrementalResult(f"run with {token}", ["edema"]).to_json())
    for file in tmp_path.iterdir():
        assert token not in file.read_text(), file.name
    assert "train.py --hub_token" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("python a.py --hub_token \\\n  abc \\\n  --lr 1", "python a.py --hub_token … --lr 1"),
        ("python a.py --hub_token= abc --lr 1", "python a.py --hub_token=… … --lr 1"),
        ("python a.py --auth abc --pat=abc --pwd abc", "python a.py --auth … --pat=… --pwd …"),
        ("python a.py --set hub_token:abc", "python a.py --set hub_token:…"),
        ("python a.py --compat abc --set lr:1", "python a.py --compat abc --set lr:1"),
    ],
)
def test_secrets_in_other_spellings(command: str, shown: str) -> None:
    assert describe_run(command) == shown


@pytest.mark.parametrize("path", ["$HOME/mrn123", "${HOME}/data/mrn123", r"%USERPROFILE%\mrn123"])
def test_paths_that_begin_with_a_variable(path: str) -> None:
    assert mask(f"see {path} for more") == "see … for more"
