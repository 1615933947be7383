"""Files and overrides to a spec, and a spec to text, parameters, hashes and JSON Schema."""

import json
import re
from pathlib import Path

import pytest
import yaml

from saccade.errors import SpecError
from saccade.spec import Spec
from saccade.spec_reader import (
    dump_spec,
    expand_env,
    flatten,
    group_hash,
    parse_spec,
    read_spec,
    spec_diff,
    spec_hash,
)

VALID = (Path(__file__).parent / "valid_spec.yaml").read_text(encoding="utf-8")


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(SpecError) as caught:
        parse_spec(text, "e.yaml", overrides)
    return str(caught.value)


def refused_file(path: str | Path) -> str:
    with pytest.raises(SpecError) as caught:
        read_spec(path)
    message = str(caught.value)
    assert message.isprintable()
    return message


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "toy.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + VALID.replace("\n", "\r\n").encode())  # as Windows writes it
    expected = Spec.model_validate(
        {
            "name": "toy run",
            "seed": 0,
            "data": {"root": "${SACCADE_DATA}/toy", "dataset": "toy", "exclude": ("v_a_g01_c01", "v b")},
            "saccade": {"focus_num": 2, "deduplicate": False},
            "encoder": {"name": "r2plus1d", "width": 8},
            "prototypes": {"num_clusters": (8, 4), "warmup_epoch": 2, "every_epochs": 1},
            "pretrain": {"epochs": 4, "learning_rate": 0.001, "decay_epochs": ()},
            "evaluation": {"retrieval": {"topk": (1, 5)}},
        }
    )
    assert read_spec(path) == read_spec(str(path)) == parse_spec(VALID, "e.yaml") == expected


def test_overrides_follow_the_same_rules_and_the_last_wins() -> None:
    spec = parse_spec(
        VALID,
        "e.yaml",
        [
            "pretrain.learning_rate=0.5",
            "pretrain.learning_rate=1e-4",
            'name="on"',
            "seed= 7 ",
            "prototypes.num_clusters=[1, 2]",
            "checkpoint.every_steps=5",
            "evaluation.retrieval.clips=3",
            "contrast.temperature=1",
            "tracking.uri=http://host:5000/?a=b",
            "engine.threads=null",
        ],
    )
    assert (spec.pretrain.learning_rate, spec.name, spec.seed) == (1e-4, "on", 7)
    assert (spec.prototypes.num_clusters, spec.checkpoint.every_steps) == ((1, 2), 5)
    assert (spec.evaluation.retrieval.clips, spec.evaluation.retrieval.topk) == (3, (1, 5))
    assert (spec.contrast.temperature, spec.tracking.uri, spec.engine.threads) == (1.0, "http://host:5000/?a=b", None)


def test_an_override_mends_the_files_value_but_not_its_missing_section() -> None:
    assert parse_spec("name: x\nseed: no\n", "e.yaml", ["seed=3"]).seed == 3
    assert refusal("name: x\ndata:\n", "data.split=2").startswith("e.yaml:2: data: has no settings")


def test_the_first_mistake_in_file_order_and_how_many_more() -> None:
    text = "pretrain:\n  momentum: 2\n  bogus: 1\nseed: x\nnam: y\n"
    assert refusal(text) == "e.yaml:2: pretrain.momentum: must be a number, 0 or more, less than 1; got 2 (and 4 more)"
    assert refusal("seed: 1\nnam: y\n") == "e.yaml:2: nam: unknown key, did you mean name? (and 1 more)"
    assert refusal("seed: 1\n") == "e.yaml: name: is missing; add a line 'name: ...'"
    both = refusal("name: x\nprototypes: {iterations: 0}\n", "seed=x", "data.split=x")
    assert both.startswith("e.yaml:2: prototypes.iterations: ")
    assert both.endswith(" (and 2 more)")
    assert refusal("name: x\n", "seed=x", "data.split=x").startswith("--set seed=x: ")


def test_impossible_combinations_stand_at_the_setting_its_section_the_file_or_the_override() -> None:
    wrong = "prototypes.warmup_epoch: 241 puts the first clustering after epoch 245"
    short = "name: x\npretrain: {epochs: 100, decay_epochs: []}\n"
    assert refusal(short).startswith(f"e.yaml: {wrong}")
    assert refusal(short, "prototypes.every_epochs=5").startswith(f"e.yaml: {wrong}")
    assert refusal(short + "prototypes:\n  weight: 1\n").startswith(f"e.yaml:3: {wrong}")
    assert refusal(short + "prototypes:\n  weight: 1\n  warmup_epoch: 241\n").startswith(f"e.yaml:5: {wrong}")
    override = "prototypes.warmup_epoch=241"
    assert refusal(short, override).startswith(f"--set {override}: 241 puts")
    # The order of the file again, not that of the checks.
    both = refusal("name: x\npretrain: {decay_epochs: [2, 1]}\nprototypes: {warmup_epoch: 300}\n")
    assert both == "e.yaml:2: pretrain.decay_epochs: [2, 1] is not in ascending order; sort it (and 1 more)"


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "\ufeff"])
def test_an_empty_spec(text: str) -> None:
    assert refusal(text) == "e.yaml: the spec is empty; it needs at least a line such as 'name: my-run'"


@pytest.mark.parametrize(("text", "given"), [("- a", "a list"), ("hello", "'hello'"), ("\n\n5", "'5'")])
def test_the_top_level_is_a_mapping(text: str, given: str) -> None:
    assert re.fullmatch(rf"e.yaml:[13]: a spec is lines of 'key: value'; got {given}", refusal(text))


def test_files_that_cannot_be_a_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    assert refused_file(write("a.yaml", b"#" * ((1 << 20) + 1))).endswith(
        "a.yaml: larger than 1 MiB, which no spec is; give a YAML file"
    )
    assert refused_file(write("b.yaml", "name: x".encode("utf-16"))).endswith("b.yaml: is UTF-16; save it as UTF-8")
    assert "is binary" in refused_file(write("c.yaml", b"PK\x03\x04\0\0"))
    assert "d.yaml:2: byte 0xE9 is not UTF-8" in refused_file(write("d.yaml", b"name: x\n# caf\xe9\n"))
    assert refused_file(write("e.yaml", b"")).startswith(f"{tmp_path}/e.yaml: the spec is empty")
    assert refused_file(tmp_path) == f"{tmp_path}: is a folder; give a YAML file, such as {tmp_path}/a.yaml"
    assert refused_file("/dev/zero") == "/dev/zero: larger than 1 MiB, which no spec is; give a YAML file"
    assert refused_file("a\0b") == "a\\x00b: cannot be read: embedded null byte"
    assert "Not a directory" in refused_file(tmp_path / "a.yaml" / "x")
    assert "too long" in refused_file(tmp_path / ("x" * 300))
    assert refused_file(tmp_path / "f\ng.yaml").startswith(f"{tmp_path}/f\\ng.yaml: no such file")
    monkeypatch.chdir(tmp_path)
    assert refused_file("").startswith(".: is a folder")


def test_a_missing_file_suggests_a_near_one(tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "toy.yaml").touch()
    (tmp_path / "paper_r3d.yaml").touch()
    (tmp_path / "paper_r3d.txt").touch()
    for typed, meant in [
        ("paper_r3.yaml", "paper_r3d.yaml"),
        ("paper-r3d", "paper_r3d.yaml"),
        ("toy", "experiments/toy.yaml"),
        ("experiments/toi.yaml", "experiments/toy.yaml"),
    ]:
        message = refused_file(tmp_path / typed)
        assert message == f"{tmp_path}/{typed}: no such file, did you mean {tmp_path}/{meant}?"
    assert refused_file(tmp_path / "zzz") == f"{tmp_path}/zzz: no such file; give the path of a YAML spec"
    assert refused_file(tmp_path / "no" / "x.yaml").endswith("no such file; give the path of a YAML spec")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("data: {dataset: '${A}'}", "data.dataset: '${A}': ${NAME} works only in data.root, encoder.weights and"),
        ("data: {exclude: [a, '${A}']}", "data.exclude: '${A}': ${NAME} works only in data.root, encoder.weights and"),
        ("data: {root: '${A'}", "data.root: '${A': only ${NAME} is understood"),
        ("data: {root: '${A:-b}'}", "data.root: '${A:-b}': only ${NAME} is understood"),
        ("tracking: {uri: '${1A}'}", "tracking.uri: '${1A}': only ${NAME} is understood"),
        ("data: {root: $HOME/x}", "data.root: '$HOME/x' would be taken literally; write ${HOME}/x"),
        ("data: {root: ~/x}", "data.root: '~/x' would be taken literally; write ${HOME}/x"),
    ],
)
def test_variables_where_they_cannot_stand(section: str, message: str) -> None:
    assert refusal(f"name: x\n{section}\n").startswith(f"e.yaml:2: {message}")


def test_expand_env(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE", "1${TWO}")
    monkeypatch.setenv("TWO", "2")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("UNSET", raising=False)
    assert expand_env("/${TWO}/${ONE}/$TWO", "data.root") == "/2/1${TWO}/$TWO"
    assert expand_env("plain", "data.root") == "plain"
    for name, state in (("UNSET", "not set"), ("EMPTY", "empty")):
        with pytest.raises(SpecError) as caught:
            expand_env(f"a/${{{name}}}", "data.root")
        expected = f"data.root: the environment variable {name} is {state}; export it, or write the value out"
        assert str(caught.value) == expected
    spec = parse_spec("name: x\ndata: {root: '${UNSET}'}", "e.yaml")  # needed where it is used, not here
    assert spec.data.root == "${UNSET}"
    assert parse_spec(dump_spec(spec), "spec.yaml").data.root == "${UNSET}"


def test_dump_has_every_field_in_order_and_other_yaml_readers_agree() -> None:
    spec = parse_spec(VALID, "e.yaml", ["augmentation.hue=1e-5", "name=yes"])
    text = dump_spec(spec)
    assert [line.partition(":")[0] for line in text.splitlines() if line[0] != " "] == list(Spec.model_fields)
    assert "  learning_rate: 0.001\n" in text
    assert "  crop_aspect_max: 1.3333333333333333\n" in text
    assert "  every_steps: null\n" in text
    assert parse_spec(text, "spec.yaml") == spec
    # PyYAML reads 1e-05 as text; all else the same.
    assert yaml.safe_load(text.replace("1e-05", "1.0e-05")) == json.loads(spec.model_dump_json())


def test_flatten() -> None:
    flat = flatten(parse_spec(VALID, "e.yaml"))
    assert {type(value) for value in flat.values()} <= {str, int, float, bool}
    picked = {
        "name": "toy run",
        "seed": 0,
        "data.exclude": "v_a_g01_c01 v b",
        "data.validation": "[]",
        "saccade.deduplicate": False,
        "prototypes.num_clusters": "8 4",
        "pretrain.learning_rate": 0.001,
        "evaluation.retrieval.topk": "1 5",
        "checkpoint.every_steps": "null",
        "tracking.uri": "",
    }
    assert flat.items() >= picked.items()
    assert "pretrain" not in flat


def changed(path: str, value: str) -> Spec:
    return parse_spec(VALID, "e.yaml", [f"{path}={value}"])


def test_hashes() -> None:
    base = parse_spec(VALID, "e.yaml")
    assert re.fullmatch("[0-9a-f]{12}", spec_hash(base))
    for path, value in [("name", "other"), ("engine.workers", "0"), ("tracking.experiment", "other")]:
        assert spec_hash(changed(path, value)) == spec_hash(base)
        assert group_hash(changed(path, value)) == group_hash(base)
    other_seed = changed("seed", "1")
    assert spec_hash(other_seed) != spec_hash(base)
    assert group_hash(other_seed) == group_hash(base)
    variants = [changed("pretrain.learning_rate", "0.0011"), changed("prototypes.num_clusters", "[4, 8]")]
    variants += [changed("data.dataset", "UCF101"), changed("prototypes.seed", "1"), changed("data.split", "2"), base]
    assert len({spec_hash(spec) for spec in variants}) == len(variants)
    assert len({group_hash(spec) for spec in variants}) == len(variants)
    assert spec_hash(changed("contrast.temperature", "1")) == spec_hash(changed("contrast.temperature", "1.0"))
    # Stable from process to process and from version to version: stored hashes are compared with new ones.
    assert spec_hash(parse_spec(dump_spec(base), "spec.yaml")) == spec_hash(base)


def test_spec_diff() -> None:
    base = parse_spec(VALID, "e.yaml")
    assert spec_diff(base, base) == {}
    other = parse_spec(VALID, "e.yaml", ["data.exclude=[v_a_g01_c01 v b]", "seed=1", "evaluation.retrieval.clips=3"])
    assert spec_diff(base, other) == {
        "seed": (0, 1),
        "data.exclude": (("v_a_g01_c01", "v b"), ("v_a_g01_c01 v b",)),
        "evaluation.retrieval.clips": (10, 3),
    }
