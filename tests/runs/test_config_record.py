"""What was set is compared, not where the code that takes it lies."""

import pytest

from ralm_jax.errors import UserError
from ralm_jax.runs import config_record
from ralm_jax.runs.config_record import CONFIG, HEADER, check_config, save_config, settings_of

OLD = """from __gin__ import dynamic_registration
from ralm_jax import optim
from ralm_jax import tasks

# Macros:
# ======
LENGTHS = @pipeline.Lengths()
REALM_STEPS = 12

# Parameters for realm/tasks.Realm:
realm/tasks.Realm.hold_retriever = True
realm/tasks.Realm.objective = @losses.marginal_per_token
training.pretrain.stages = \\
    [@ict/training.Stage(), @realm/training.Stage()]
training.pretrain.log_every = 20
"""
NEW = """from __gin__ import dynamic_registration
from ralm_jax.training import tasks

REALM_STEPS = 12
LENGTHS = @batches.Lengths()
realm/tasks.Realm.freeze_retriever = True
realm/tasks.Realm.objective = @marginal.marginal_per_token
realm/schedule.Schedule.steps = %REALM_STEPS
pretrain.pretrain.stages = [@ict/schedule.Stage(), @realm/schedule.Stage()]
"""


def test_modules_and_former_names_do_not_count():
    assert settings_of(OLD) == {
        "LENGTHS": "@Lengths()",
        "REALM_STEPS": "12",
        "realm/Realm.freeze_retriever": "True",
        "realm/Realm.objective": "@marginal_per_token",
        "pretrain.stages": "[@ict/Stage(), @realm/Stage()]",
        "pretrain.log_every": "20",
    } | {"pretrain.stages": "[@ict/Stage(), @realm/Stage()]"}


def made(run, text):
    run.mkdir()
    (run / CONFIG).write_text(text)
    (run / "run.json").write_text("{}")


def test_a_run_of_an_earlier_release_is_compared_by_what_both_have(tmp_path):
    made(tmp_path / "run", OLD)
    check_config(tmp_path / "run", NEW)
    with pytest.raises(UserError, match="REALM_STEPS is 12 there and 13 here"):
        check_config(tmp_path / "run", NEW.replace("12", "13"))
    with pytest.raises(
        UserError, match=r"realm/Realm.freeze_retriever is True there and False here"
    ):
        check_config(tmp_path / "run", NEW.replace("True", "False"))


def test_a_run_of_this_release_is_compared_whole(tmp_path):
    made(tmp_path / "run", f"{HEADER}\n{NEW}")
    check_config(tmp_path / "run", NEW)
    check_config(tmp_path / "run", NEW.replace("tasks.", "elsewhere.tasks."))
    with pytest.raises(UserError, match="SEED is absent there and 1 here"):
        check_config(tmp_path / "run", NEW + "SEED = 1\n")


def test_what_nothing_was_made_with_is_replaced(tmp_path):
    save_config(tmp_path / "run", NEW)
    save_config(tmp_path / "run", NEW + "SEED = 1\n")
    assert "SEED = 1" in (tmp_path / "run" / CONFIG).read_text()
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(UserError, match="SEED is 1 there and absent here"):
        save_config(tmp_path / "run", NEW)
    assert config_record.CONFIG == "config.gin"
