"""Every configuration of a run or an experiment takes a step in each of its stages, on a tiny world."""

import compiling
import gin
import pytest

from ralm_jax import cli, gin_config
from ralm_jax.arguments.shared import configs
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.training import pretrain

ONE_STEP = (
    "ICT_STEPS",
    "WARMUP_STEPS",
    "REALM_STEPS",
    "HEAD_STEPS",
    "SCORER_STEPS",
    "STEPS",
    "WINDOW_STEPS",
    "READER_STEPS",
    "TEACH_STEPS",
)
TINY = {name: "1" for name in ONE_STEP} | {
    "HEAD_JOINT_LENGTH": "21", "HEAD_BATCH": "8", "BATCH": "8", "BEAM": "20", "SPAN_WIDTH": "3",
    "DEV_EVERY": "1", "DEV_QUESTIONS": "4", "WINDOW_BATCH": "8", "WINDOW_WARMUP": "0", "WINDOW_SHORTEST": "4",
    "WINDOW_LONGEST": "9", "READER_BATCH": "8", "TEACH_BATCH": "8", "TEACH_CLOZES": "16",
}  # fmt: skip
FILES = [
    str(file.relative_to(configs()))
    for folder in ("runs", "experiments")
    for file in sorted((configs() / folder).rglob("*.gin"))
    if file.name
    not in ("quickstart.gin", "base.gin")  # test_cli takes the one; the other is included
]


def settings(config, tiny_settings):
    """The settings that make it small, as far as the configuration has them."""
    gin.clear_config()
    gin.add_config_file_search_path(str(configs()))
    gin.parse_config_file(str(configs() / config))
    has = {line.split(" = ")[0] for line in gin.config_str().splitlines() if " = " in line}
    sizes = dict(change.split(" = ") for change in tiny_settings[1::2]) | TINY
    # Alike in all, so that stages alike are compiled once.
    sizes |= {name: "1e-3" for name in has if name.endswith("_RATE")}
    changes = [f"{name} = {value}" for name, value in sizes.items() if name in has]
    return [word for change in changes for word in ("--set", change)]


@pytest.fixture(scope="module", autouse=True)
def steps_are_traced():
    with compiling.traced():
        yield


@pytest.fixture(scope="module")
def begun(tiny, tiny_settings, tmp_path_factory):
    """A run of all stages, which the others start from."""
    run = tmp_path_factory.mktemp("begun") / "run"
    config = "runs/pretrain.gin"
    files = ["--config", config, "--corpus", str(tiny.corpus.path), "--run", str(run)]
    assert cli.main(["pretrain", *files, *settings(config, tiny_settings)]) == 0
    return run


@pytest.mark.parametrize(
    "objective",
    [
        "marginal.marginal_per_span", "objectives.emdr2", "objectives.perplexity_distillation",
        "objectives.leave_one_out", "objectives.list_marginal", "objectives.expected_log_likelihood",
        "distillation.label_free",
    ],
)  # fmt: skip
def test_an_objective_is_one_line(objective):
    changes = [f"OBJECTIVE = @{objective}"]
    given = gin_config.bindings("pretrain.pretrain", "runs/pretrain.gin", changes)
    task = given["stages"][-1].task
    assert task.objective.__name__ == objective.split(".")[1]
    assert task.needs_reranker == objective.startswith("distillation")
    more = [*changes, "objectives.perplexity_distillation.temperature = 0.1"]
    gin_config.bindings("pretrain.pretrain", "runs/pretrain.gin", more)


def test_a_temperature_goes_with_any_objective():
    changes = ["OBJECTIVE = @objectives.tempered()", "objectives.tempered.temperature = 0.5"]
    changes.append("objectives.tempered.objective = @distillation.label_free")
    given = gin_config.bindings("pretrain.pretrain", "runs/pretrain.gin", changes)
    assert given["stages"][-1].task.needs_reranker


@pytest.mark.slow
@pytest.mark.parametrize("config", FILES)
def test_a_step_in_each_stage(config, begun, tiny, tiny_settings, tmp_path):
    small, out = settings(config, tiny_settings), tmp_path / "out"
    if "finetune" in config:
        few = tmp_path / "few.jsonl"
        few.write_text("\n".join(tiny.questions.read_text("utf-8").splitlines()[:8]), "utf-8")
        asked = ["--train", str(tiny.questions), "--dev", str(few)]
        begin = ["--config", config, "--run", str(begun), "--out", str(out)]
        assert cli.main(["finetune", *begin, *asked, *small]) == 0
        assert OpenRun.open(out, stage="finetune").step == 1
        return
    given = gin_config.bindings("pretrain.pretrain", config)
    begin = [] if given.get("model") else ["--init", str(begun)]
    files = ["--config", config, "--corpus", str(tiny.corpus.path), "--run", str(out)]
    assert cli.main(["pretrain", *files, *begin, *small]) == 0
    stages = [stage.name for stage in given["stages"]]
    assert [OpenRun.open(out, stage=stage).step for stage in stages] == [1] * len(stages)


@pytest.mark.parametrize("kind", [ValueError, TypeError])
def test_a_fault_of_the_program_is_not_laid_to_the_configuration(
    kind, tiny, tiny_settings, tmp_path, monkeypatch
):
    def wrong(*given):
        raise kind("shapes differ")

    monkeypatch.setattr(pretrain, "train_chain", wrong)
    words = ["pretrain", "--config", "runs/pretrain.gin", "--run", str(tmp_path / "run")]
    with pytest.raises(kind, match="shapes differ"):
        cli.main([*words, "--corpus", str(tiny.corpus.path), *tiny_settings])


def test_what_a_configuration_leaves_out_is_said_of_it(tiny, tmp_path, capsys):
    file = tmp_path / "own.gin"
    file.write_text(
        "from __gin__ import dynamic_registration\nfrom ralm_jax.training import pretrain\n"
        "pretrain.pretrain.seed = 0\n"
    )
    words = ["pretrain", "--config", str(file), "--run", str(tmp_path / "run")]
    assert cli.main([*words, "--corpus", str(tiny.corpus.path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"ralm: configuration {file}: ") and "'stages'" in said
