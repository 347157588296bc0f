"""Why random masks ruin a retriever: what differs between the rows, and what is counted."""

from experiments import masks
from ralm_jax import gin_config


def stages(training):
    return gin_config.bindings("pretrain.pretrain", training.config, training.changes)["stages"]


def test_masks_and_warm_up_change_one_by_one(setting):
    for mask, warm in masks.ROWS:
        trainings = masks.chain(setting, mask, warm)
        # The masks of each stage, in whatever run it is.
        used = {}
        for training in trainings:
            for stage in stages(training):
                used[stage.name] = stage.task.mask.__name__
        assert used["realm"] == masks.MASKS[mask] and used["warmup"] == masks.MASKS[warm]
        shared = trainings[-1] == setting.chain(masks.RUNS[mask])[-1]
        # A row of Table 2, or a run of its own.
        assert shared == (mask == warm)


def test_what_is_masked_of_the_salient_spans(setting):
    shares = {
        mask: masks.in_salient_spans(setting.data.corpus, masks.chain(setting, mask, mask)[-1])
        for mask in masks.MASKS
    }
    assert shares["salient"] == 1
    assert 0 < shares["uniform"] < 0.5 and 0 < shares["span"] < 0.5


def test_the_table():
    row = {"mask": "span", "warm": "salient", "in_salient_spans": 0.25, "utility_warmed": 2.0}
    rows = [{**row, "seed": seed, "utility": 0.5 + seed, "recall@5": 0.1 * seed} for seed in (1, 3)]
    shown = masks.table(rows)
    assert "| span | salient | 25% | 2.00 | 2.50 | 20.0 (10.0 to 30.0) |" in shown
    assert "| uniform | uniform |  |  |  | not run |" in shown
