"""The command line: what works, and that every mistake of the user is one line and exit code 2."""

import json
import math
import os
import re
import subprocess
import sys

import compiling
import gin
import jax
import pytest

from ralm_jax import cli, gin_config
from ralm_jax.arguments.shared import configs
from ralm_jax.data.prepare import prepare
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.models.reader import Reader
from ralm_jax.release import VERSION
from ralm_jax.sources.almanac import World

STAGES = ("ict", "warmup", "realm")
ONE_STEP = [word for name in STAGES for word in ("--set", f"{name.upper()}_STEPS = 1")]
VERBS = tuple(cli.VERBS)


@pytest.fixture(scope="module")
def pretrain(tiny, tiny_settings):
    """Arguments of a run, of one step a stage."""

    def arguments(run, *more, config="runs/pretrain.gin", corpus=tiny.corpus.path):
        given = ["--config", str(config), "--corpus", str(corpus), "--run", str(run)]
        return ["pretrain", *given, *tiny_settings, *ONE_STEP, *more]

    return arguments


@pytest.fixture(scope="module")
def ran(pretrain, tmp_path_factory):
    run = tmp_path_factory.mktemp("cli") / "run"
    with compiling.traced():
        assert cli.main(pretrain(run)) == 0
    return run


def fails(capsys, argv) -> str:
    """Runs it, and returns what it said of the mistake."""
    capsys.readouterr()
    assert cli.main([str(word) for word in argv]) == 2
    said = capsys.readouterr().err
    assert said.startswith("ralm: ") and said.count("\n") == 1, said
    return said


@pytest.mark.parametrize(
    ("given", "words", "on"),
    [
        ("", "estimate --config nowhere.gin", "cpu"),
        ("", "import nowhere --out run", "cpu"),
        ("", "export --run nowhere --to transformers --out folder", "cpu"),
        ("", "export --run nowhere --to vectors --out folder", None),
        ("", "estimate --config nowhere.gin --probe", None),
        ("", "evaluate --run nowhere --questions none", None),
        # A program that calls `main` itself may train afterwards.
        ("sys.argv[1:]", "import nowhere --out run", None),
    ],
)
def test_what_needs_no_accelerator_leaves_it_to_others(given, words, on):
    code = (
        f"import sys; sys.argv[1:] = {words.split()}\nfrom ralm_jax.cli import main\nmain({given})"
    )
    code += "\nimport jax; print(jax.config.jax_platforms)"
    there = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    done = subprocess.run([sys.executable, "-c", code], env=there, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == str(on), done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_written_for_a_person(capsys, verb):
    with pytest.raises(SystemExit) as ended:
        cli.main([verb, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert f"usage: ralm {verb}" in said and len(said.splitlines()) > 10
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert verb in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("HIDEN = 8", "nothing reads HIDEN; did you mean HIDDEN?"),
        ("HIDDEN", "write it as 'NAME = VALUE'"),
        ("HIDDEN =", "write it as 'NAME = VALUE'"),
        ("= 8", "write it as 'NAME = VALUE'"),
        ("HIDDEN = 8)", "HIDDEN"),
        ("pretrain.pretrain.sed = 1", "named 'sed'; did you mean pretrain.pretrain.seed?"),
        ("pretrian.pretrain.seed = 1", "did you mean pretrain.pretrain.seed?"),
        ("pretrain.pretrian.seed = 1", "no pretrian in ralm_jax.training.pretrain; did you mean"),
        ("realm/schedule.Stage.step = 1", "named 'step'; did you mean realm/schedule.S"),
        ("SEED = %SEEED", "nothing sets SEEED; did you mean SEED?"),
        ("MASK = @masking.salient_spam", "did you mean salient_span?"),
        ("HIDDEN = 9", "hidden 9 does not divide into 2 heads"),
        ("POOLING = 'max'", "pooling is"),
        ("POSITIONS = 20", "exceeds 20 positions"),
        ("REALM_BATCH = 12", "batch of 12 does not divide over 8 devices"),
        ("REFRESH_LAG = 9", "lag is 9"),
        ("REALM_STEPS = 1e1", "REALM_STEPS must be a whole number from 1, not 10.0"),
        ('REALM_STEPS = "4"', "REALM_STEPS must be a whole number from 1, not '4'"),
        ("REALM_STEPS = -4", "REALM_STEPS must be a whole number from 1, not -4"),
        ("REALM_STEPS = True", "REALM_STEPS must be a whole number from 1, not True"),
        ("CANDIDATES = 2.0", "CANDIDATES must be a whole number from 1, not 2.0"),
        ("REALM_BATCH = None", "REALM_BATCH must be a whole number from 1, not None"),
        ("LOG_EVERY = 0", "LOG_EVERY must be a whole number from 1, not 0"),
        ("CHECKPOINT_EVERY = 0.5", "CHECKPOINT_EVERY must be a whole number from 1"),
        ("READER_RATE = '1e-3'", "READER_RATE must be a number from 0, not '1e-3'"),
        ("RETRIEVER_RATE = -1e-5", "RETRIEVER_RATE must be a number from 0, not -1e-05"),
        ("BETA2 = 1.0", "BETA2 must be a number from 0 to less than 1, not 1.0"),
        ("DROPOUT = 1", "DROPOUT must be a number from 0 to less than 1, not 1"),
        ("HELD_OUT = 2", "HELD_OUT must be a number from 0 to less than 1, not 2"),
        ("ICT_MASK_SHARE = 1.5", "ICT_MASK_SHARE must be a number from 0 to 1, not 1.5"),
        ("SCORE_SCALE = 0", "SCORE_SCALE must be a number above 0, not 0"),
        ("MASK = 'salient_span'", "MASK must be a reference such as @module.name"),
        ("OBJECTIVE = 3", "OBJECTIVE must be a reference such as @module.name"),
        ("INDEX = 'faiss'", "INDEX must be one of 'auto', 'exact', 'scann', not 'faiss'"),
        ("SCORER = 'yes'", "SCORER must be True or False, not 'yes'"),
        ("QUERY_LENGTH = 2", "QUERY_LENGTH must be a whole number from 3, not 2"),
        ("JOINT_LENGTH = 20", "the joint length 20 has no room for a passage behind a query of 20"),
        ("REFRESH_EVERY = 4.0", "REFRESH_EVERY must be a whole number from 1, not 4.0"),
    ],
)
def test_a_bad_setting_is_one_line_and_leaves_no_run(pretrain, capsys, tmp_path, change, said):
    run = tmp_path / "run"
    assert said in fails(capsys, pretrain(run, "--set", change))
    assert not run.exists()


def test_a_configuration_that_is_not_there_or_not_gin(pretrain, capsys, tmp_path):
    said = fails(capsys, pretrain(tmp_path / "a", config="runs/missing.gin"))
    assert "no configuration runs/missing.gin; ralm configs lists them" in said
    said = fails(capsys, pretrain(tmp_path / "a", config="pretrian.gin"))
    assert "did you mean runs/pretrain.gin?" in said
    bad = tmp_path / "bad.gin"
    bad.write_text("include 'runs/pretrain.gin'\nSEED = = 1\n")
    assert "bad.gin" in fails(capsys, pretrain(tmp_path / "a", config=bad))
    bad.write_text("from __gin__ import dynamic_registration\nfrom ralm_jax import trainin\n")
    assert "trainin" in fails(capsys, pretrain(tmp_path / "a", config=bad))
    bad.write_text("include 'runs/pretrain.gin'\npretrain.pretrain.sede = 1\n")
    assert "sede" in fails(capsys, pretrain(tmp_path / "a", config=bad))
    bad.write_text("include 'runs/pretrain.gin'\nPASSAGE_LENGHT = 56\n")
    said = fails(capsys, pretrain(tmp_path / "a", config=bad))
    assert "bad.gin: nothing reads PASSAGE_LENGHT; did you mean PASSAGE_LENGTH?" in said
    assert not (tmp_path / "a").exists()


def test_a_corpus_that_is_not_there(pretrain, capsys, tmp_path):
    said = fails(capsys, pretrain(tmp_path / "run", corpus=tmp_path / "none"))
    assert f"no corpus at {tmp_path / 'none'}; make one with: ralm prepare" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_of_another_configuration(pretrain, capsys, ran, tmp_path):
    said = fails(capsys, pretrain(ran, "--set", "SEED = 5"))
    assert f"{ran} has a run of another configuration" in said and "SEED" in said
    source = tmp_path / "source.jsonl"
    source.write_text(json.dumps({"id": "1", "title": "T", "text": "One. Two of 1999. Three."}))
    prepare(str(source), tmp_path / "corpus", vocab_size=100, say=lambda line: None)
    said = fails(capsys, pretrain(ran, corpus=tmp_path / "corpus"))
    assert f"{ran} has a run of another configuration" in said
    # A path that is no directory.
    assert "is a file" in fails(capsys, pretrain(source))


@pytest.mark.slow
def test_the_same_command_again_is_done_at_once(pretrain, capsys, ran):
    before = sorted(ran.rglob("*"))
    assert cli.main(pretrain(ran)) == 0
    assert sorted(ran.rglob("*")) == before


@pytest.mark.slow
def test_mistakes_of_evaluate(capsys, ran, tiny, tmp_path):
    questions = ["--questions", tiny.questions]
    said = fails(capsys, ["evaluate", "--run", tmp_path / "none", *questions])
    assert f"there is no run at {tmp_path / 'none'}" in said
    said = fails(capsys, ["evaluate", "--run", ran, "--questions", tmp_path / "none.jsonl"])
    assert f"no file of questions at {tmp_path / 'none.jsonl'}" in said
    said = fails(capsys, ["evaluate", "--run", ran, *questions, "--stage", "reaml"])
    assert "no stage 'reaml'; it has ict, warmup, realm" in said
    said = fails(capsys, ["evaluate", "--run", ran, *questions, "--corpus", tmp_path / "none"])
    assert "no corpus at" in said
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"question": "Who?", "answers": ["I"]}\n{"question": \n')
    said = fails(capsys, ["evaluate", "--run", ran, "--questions", bad])
    assert "bad.jsonl" in said and "line 2" in said


def test_mistakes_of_prepare(capsys, tiny, tmp_path):
    source, out = tmp_path / "source.jsonl", tmp_path / "out"
    source.write_text('{"id": "1", "title": "T", "text": "A."}\n{"id": "2", "title": "T"\n')
    said = fails(capsys, ["prepare", source, "--out", out])
    assert "source.jsonl" in said and "2" in said
    assert "none.jsonl" in fails(capsys, ["prepare", tmp_path / "none.jsonl", "--out", out])
    assert "exists" in fails(capsys, ["prepare", source, "--out", tiny.corpus.path])
    assert sorted(tmp_path.iterdir()) == [source]


def test_prepare_writes_its_counts(capsys, tmp_path):
    source, counts = tmp_path / "source.jsonl", tmp_path / "counts.json"
    source.write_text(json.dumps({"id": "1", "title": "T", "text": "One. Two of 1999. Three."}))
    argv = ["prepare", str(source), "--out", str(tmp_path / "out"), "--json", str(counts)]
    assert cli.main([*argv, "--vocab-size", "100"]) == 0
    assert json.loads(counts.read_text())["passages"] == 1
    assert (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.slow
def test_evaluate_writes_what_it_shows(capsys, ran, tiny, tmp_path):
    report = tmp_path / "report.json"
    argv = ["evaluate", "--run", str(ran), "--questions", str(tiny.questions)]
    assert cli.main([*argv, "--json", str(report)]) == 0
    shown, found = capsys.readouterr().out, json.loads(report.read_text())
    assert found["stage"] == "realm" and found["questions"] == len(tiny.almanac.questions)
    assert f"{found['bm25']['gold_passage']['recall']['5']:.1%}" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["prepar", "a"], "there is no verb 'prepar'; did you mean prepare?"),
        (["xyz"], "there is no verb 'xyz'; see ralm --help"),
        (["pretrain", "--confg", "a"], "pretrain has no option --confg; did you mean --config?"),
        (["pretrain", "--confg=a"], "no option --confg; did you mean --config?"),
        (["prepare", "--xyzzy"], "no option --xyzzy; see ralm prepare --help"),
        (["prepare", "a"], "arguments are required: --out; see ralm prepare --help"),
        (["export", "--run", "a", "--out", "b", "--to", "onx"], "invalid choice: 'onx'"),
        (["quickstart", "--seed", "x"], "invalid int value: 'x'"),
        ([], "required: VERB; see ralm --help"),
    ],
)
def test_a_misspelt_word_gets_the_nearest_one(capsys, words, said):
    assert said in fails(capsys, words)


def test_a_question_may_look_like_an_option(capsys, tmp_path):
    for words in (["--what is this?"], ["--", "--what"]):
        said = fails(capsys, ["ask", "--run", tmp_path, *words])
        assert "there is no run" in said


def test_the_version_is_that_of_the_release(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"ralm_jax {VERSION} (jax {jax.__version__}, ")


def test_every_configuration_is_listed_by_the_name_that_config_takes(capsys):
    assert cli.main(["configs"]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    files = [str(file.relative_to(configs())) for file in FILES]
    assert sorted(name for name, _ in lines) == sorted(files) and lines[0][0].startswith("runs/")
    assert dict(lines)["runs/finetune_small.gin"] == (
        "Answering questions with the small model of the quickstart."
    )


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_learns_verbs_options_and_configurations(capsys, shell):
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in (*VERBS, "--init-retriever", "runs/small.gin"):
        assert word in script


def test_figures_on_standard_output_are_alone_there(capsys, tmp_path):
    source = tmp_path / "source.jsonl"
    source.write_text(json.dumps({"id": "1", "title": "T", "text": "One. Two of 1999. Three."}))
    argv = ["prepare", str(source), "--out", str(tmp_path / "out"), "--vocab-size", "100"]
    assert cli.main([*argv, "--json", "-"]) == 0
    figures, said = capsys.readouterr()
    assert json.loads(figures)["passages"] == 1 and "Cutting passages" in said
    argv = ["update", str(tmp_path / "out"), str(source), "--json", "-"]
    assert cli.main(argv) == 0
    assert json.loads(capsys.readouterr().out)["documents unchanged"] == 1


FILES = sorted(configs().rglob("*.gin"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_configuration_parses_and_says_what_it_is(file):
    assert file.read_text().startswith("# ")
    gin.clear_config()
    gin.add_config_file_search_path(str(configs()))
    gin.parse_config_file(str(file))
    if file.parent.name != "models" or file.stem == "bert":
        return
    # The number of parameters in its first line is that of the reader, within the head's own few.
    model = gin.get_configurable("ralm.Ralm")()
    tokens = jax.ShapeDtypeStruct((1, 4), "int32")
    shapes = jax.eval_shape(Reader(model.reader_config).init, jax.random.key(0), *[tokens] * 3)
    millions = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) / 1e6
    said = float(re.search(r"([\d.]+)M parameters", file.read_text())[1])
    assert abs(millions - said) < 0.02 * said


@pytest.mark.slow  # the other configurations: test_configs.py
def test_the_quickstart_takes_a_step_in_each_stage(tmp_path, tiny_settings):
    run = tmp_path / "run"
    changes = [word for word in (*tiny_settings, *ONE_STEP) if word != "--set"]
    call, _ = gin_config.configure("quickstart.quickstart", "runs/quickstart.gin", changes)
    with compiling.traced():
        report = call(run=run, world=World(people=20, names=8), clozes=8, say=lambda line: None)
    assert set(report) >= {"seed", "wall_seconds", "untrained", "ict", "realm"}
    figures = {"question_recall", "cloze_recall", "span_accuracy", "span_accuracy_null"}
    assert figures <= set(report["realm"])
    assert [OpenRun.open(run, stage=stage).step for stage in STAGES] == [1, 1, 1]


@pytest.mark.slow
def test_the_resolved_configuration_is_saved_and_can_be_run(ran, tmp_path):
    kept = ran / "config.gin"
    assert "HIDDEN = 8" in kept.read_text()
    again = gin_config.configure("pretrain.pretrain", str(kept))
    assert kept.read_text().endswith(again.text)
