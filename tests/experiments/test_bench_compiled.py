"""What compilers say of the shipped configurations: of all, each program once, and what is said of it."""

import json

import pytest

from experiments.bench import compiled
from ralm_jax.arguments.shared import configs
from ralm_jax.cost import ahead, chips, fitting, residuals
from ralm_jax.training.tasks import Realm

NEED = residuals.Need(10, 20, fixed=5, each=5, given=1, layer=2, logits=1, grouped=True)
KEPT = json.loads(compiled.OUT.read_text("utf-8"))
FOUND = {config: KEPT[config] for config in compiled.DEVICES if config in KEPT}
STAGES = [(config, name) for config, record in FOUND.items() for name in record["stages"]]


def test_every_configuration_of_an_accelerator_is_compiled():
    included = 'include "devices/accelerator.gin"'
    files = (configs() / "runs").glob("*.gin")
    wanted = {f"runs/{file.name}" for file in files if included in file.read_text("utf-8")}
    assert wanted == set(compiled.DEVICES)


@pytest.mark.parametrize(("config", "name"), STAGES)
def test_a_tenth_is_to_spare_and_the_formula_is_near(config, name):
    stage, memory = FOUND[config]["stages"][name], FOUND[config]["memory_bytes"]
    most = stage["compiler"]["most"]
    assert most <= fitting.FILLED * memory
    assert 0.85 <= stage["formula"]["total"] / most <= 1.15


def test_the_texts_of_a_corpus_are_read_in_parts(monkeypatch, tiny):
    made = []

    def compiling(model, stage, chip, rows, part_widths):
        made.append(part_widths)
        return ahead.Compiled(1, 2, 3, 3, 80.0, 1.0)

    monkeypatch.setattr(ahead, "compiled", compiling)
    monkeypatch.setattr(residuals, "need", lambda model, stage: NEED)
    given = compiled.given("runs/warm_l4.gin", [])
    chip = chips.chip("l4")._replace(memory=NEED.memory(64, 16).total / fitting.FILLED + 1)
    found = compiled.measured(given["model"], given["stages"][-1], chip, {}, tiny.corpus)
    (widths,) = made
    # These passages are much shorter than what is read at the most.
    assert found["part_widths"] == widths and widths == tuple(sorted(widths))
    assert 0 < widths[0] < widths[-1] < given["stages"][-1].task.lengths.joint


def test_a_program_is_compiled_once(monkeypatch):
    """Again where another microbatch is chosen; the formula is traced anew each time."""
    made = []

    def compiling(model, stage, chip, rows):
        made.append((stage.task.microbatch_size, rows))
        return ahead.Compiled(1, 2, 3, 3, 80.0, 1.0)

    monkeypatch.setattr(ahead, "compiled", compiling)
    monkeypatch.setattr(residuals, "need", lambda model, stage: NEED)
    given = compiled.given("runs/warm_l4.gin", [])
    stage = given["stages"][-1]
    assert isinstance(stage.task, Realm) and stage.task.microbatch_size == "auto"
    chip = chips.chip("l4")._replace(memory=NEED.memory(64, 16).total / fitting.FILLED + 1)
    first = compiled.measured(given["model"], stage, chip, {})
    again = compiled.measured(given["model"], stage, chip, first)
    assert made == [(16, 64)] and again == first and first["read_at_a_time"] == 16
    assert first["formula_by_compiler"] == round(NEED.memory(64, 16).total / 80, 3)
    more = chip._replace(memory=NEED.memory(64, 32).total / fitting.FILLED + 1)
    compiled.measured(given["model"], stage, more, first)
    assert made == [(16, 64), (32, 64)]
