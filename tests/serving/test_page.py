"""The page, as it is shipped: no markup is made of texts, and nothing comes from anywhere else."""

import re
from importlib import resources

import pytest

FILES = {"index.html": "/", "page.css": "/page.css", "page.js": "/page.js"}


@pytest.mark.parametrize("name", FILES)
def test_files_are_served_as_they_are(client, name):
    response = client.get(FILES[name])
    file = resources.files("ralm_jax.serving").joinpath("page", name)
    assert response.content == file.read_bytes()
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_loaded_from_elsewhere(name):
    text = resources.files("ralm_jax.serving").joinpath("page", name).read_text("utf-8")
    # The name of the SVG namespace is an address that nobody asks for.
    assert set(re.findall(r"(?:https?:)?//[\w.]+", re.sub(r"// .*", "", text))) <= {
        "http://www.w3.org"
    }
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|style=", text)
    assert not re.search(r"\son\w+=", text) and "@import" not in text
