"""`ralm push`, against a hub that is not there."""

import types

import huggingface_hub
import pytest

from ralm_jax import cli


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "model.safetensors").write_bytes(b"weights")
    (path / "README.md").write_text("a card")
    return path


@pytest.fixture
def hub(monkeypatch):
    """Calls of the hub's client, and the files that a repository has."""
    asked = types.SimpleNamespace(calls=[], files=set(), refuses=None)

    class Api:
        def create_repo(self, repository, **given):
            asked.calls.append(("create", repository, given))
            if asked.refuses:
                raise asked.refuses

        def file_exists(self, repository, name):
            return name in asked.files

        def upload_folder(self, **given):
            asked.calls.append(("upload", given))
            url = f"https://hub/{given['repo_id']}"
            pull = f"{url}/discussions/1" if given["create_pr"] else None
            return types.SimpleNamespace(commit_url=f"{url}/commit/a", pr_url=pull)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_secret")
    return asked


def test_a_folder_becomes_a_repository(hub, folder, capsys):
    assert cli.main(["push", str(folder), "acme/tiny", "--private"]) == 0
    (_, repository, made), (_, sent) = hub.calls
    assert repository == "acme/tiny" and made == {"private": True, "exist_ok": True}
    assert sent["folder_path"] == folder and not sent["create_pr"]
    assert "README.md" not in sent["ignore_patterns"]
    assert "https://hub/acme/tiny/commit/a" in capsys.readouterr().out


def test_a_card_that_is_there_stays(hub, folder, capsys):
    hub.files = {"README.md"}
    assert cli.main(["push", str(folder), "acme/tiny", "--pr"]) == 0
    assert "README.md" in hub.calls[-1][1]["ignore_patterns"]
    said = capsys.readouterr().out
    assert "has a card already" in said and "acme/tiny/discussions/1" in said


@pytest.mark.parametrize(
    ("name", "said"),
    [("tiny", "write it as OWNER/NAME"), ("a/b/c", "write it as OWNER/NAME")],
)
def test_a_name_that_is_no_repository(hub, folder, capsys, name, said):
    assert cli.main(["push", str(folder), name]) == 2
    assert said in capsys.readouterr().err and not hub.calls


def test_what_cannot_be_uploaded_is_one_line(hub, folder, tmp_path, monkeypatch, capsys):
    assert cli.main(["push", str(tmp_path / "none"), "acme/tiny"]) == 2
    assert "has no weights to upload" in capsys.readouterr().err
    hub.refuses = RuntimeError("403 Forbidden:\nyou may not write")
    assert cli.main(["push", str(folder), "acme/tiny"]) == 2
    error = capsys.readouterr().err
    assert error == "ralm: acme/tiny cannot be uploaded to: 403 Forbidden: you may not write\n"
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    hub.calls.clear()
    assert cli.main(["push", str(folder), "acme/tiny"]) == 2
    assert "set HF_TOKEN" in capsys.readouterr().err and not hub.calls
