"""Packaging of ralm_jax. Tool settings (ruff, pytest, pyrefly) are in pyproject.toml."""

import runpy
from pathlib import Path

from setuptools import find_packages, setup

DEPENDENCIES = [
    "jax>=0.10",  # arrays, gradients, pmap
    "flax>=0.12",  # Linen modules
    "optax>=0.2.8",  # optimizers, schedules
    "orbax-checkpoint>=0.12,<0.13",  # asynchronous checkpoints; v1 names still move
    "numpy>=2.0",  # everything on the host; ScaNN asks for 2
    "tokenizers>=0.19",  # WordPiece, in Rust
    "safetensors>=0.5",  # weights in and out, without pickle
    "huggingface-hub>=0.24",  # weights by name; tokenizers brings it anyway
    "fsspec>=2024.2",  # sources in a store, gs:// or s3://; huggingface-hub brings it anyway
    "grain>=0.2.12",  # the input pipeline, without TensorFlow
    "tensorflow-datasets>=4.9.9",  # corpora by name, the format of our texts; no TensorFlow
    "importlib_resources>=6",  # tensorflow-datasets imports it without declaring it
    "array_record>=0.8.1; sys_platform == 'linux'",  # the files of those datasets
    # Approximate MIPS. There are wheels for Linux, up to Python 3.13; elsewhere the search is exact.
    "scann>=1.4; sys_platform == 'linux' and python_version < '3.14'",
    "bm25s>=0.2.13",  # the lexical baseline of every retrieval table
    "pyarrow>=15",  # Parquet and Arrow as corpora; tensorflow-datasets brings it anyway
    "ir-measures>=0.4",  # nDCG, MRR and MAP as trec_eval takes them
    "gin-config>=0.5",  # experiments as files
    "tensorboardX>=2.6.2",  # event files, without TensorFlow
    "tqdm>=4.66",  # the progress bar
    # `ralm completion`: a script that is made once, where argcomplete starts Python at every Tab. It
    # brings no other package, and one that is not there when somebody presses Tab helps nobody.
    "shtab>=1.7",
    "packaging>=22",  # which versions satisfy what is needed (`ralm doctor`); matplotlib brings it anyway
    "matplotlib>=3.9",  # learning curves
]

SERVE = ["starlette>=1.10", "uvicorn>=0.50", "msgspec>=0.20", "prometheus-client>=0.21"]

EXTRAS = {
    # pypdf and selectolax, as in `documents`; what `serve` has, since a server's contracts are cheap to test
    # and easy to break; httpx2, which Starlette's test client is made of and huggingface-hub brings anyway
    "test": [
        *("pytest>=8.3", "pytest-xdist>=3.6"),
        # Of one release each: what the next one finds or formats otherwise fails nobody's checkout.
        *("ruff>=0.17,<0.18", "pyrefly>=1.5,<1.6"),
        *("pypdf>=5", "selectolax>=0.4"),
        # Input that nobody thinks of, against every parser and reader; it brings one small package.
        "hypothesis>=6.130",
        *(*SERVE, "httpx2>=2"),
    ],
    # A folder of pages: PDF, and HTML with what EPUB is made of. Neither brings another package.
    "documents": ["pypdf>=5", "selectolax>=0.4"],
    # starlette, uvicorn: a light server, 7 packages in all; msgspec (no dependencies): JSON checked against
    # the classes that also make the OpenAPI document; prometheus-client (none): /metrics
    "serve": SERVE,
    # Preparing, embedding on Flink, Spark, Dataflow or in processes here. Beam 2.77 asks for protobuf below
    # 7 and numpy below 2.5, which jax, orbax-checkpoint and tensorflow-datasets agree with, and any pyarrow.
    "beam": ["apache-beam>=2.77"],
    "torch": ["torch>=2.6"],  # only to read an old pytorch_model.bin, as weights alone
    # jupyterlab to look, nbclient to execute; faiss-cpu: where your_own_corpus ends
    "notebooks": ["jupyterlab>=4.3", "nbclient>=0.10", "faiss-cpu>=1.9"],
    # The site in docs/: Markdown by MyST, a theme that loads nothing from elsewhere.
    "docs": ["sphinx>=8.1", "furo>=2024.8", "myst-parser>=4"],
    # What .ci/run builds and checks a release with.
    "release": ["build>=1.2", "twine>=6"],
    "gpu": ["jax[cuda12]>=0.10"],
    "tpu": ["jax[tpu]>=0.10"],
}

HERE = Path(__file__).parent
README = HERE / "README.md"
RELEASE = runpy.run_path(str(HERE / "ralm_jax" / "release.py"))

setup(
    name="ralm_jax",
    version=RELEASE["VERSION"],
    description="Retrieval-augmented language model pretraining in JAX and Flax",
    long_description=README.read_text("utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    classifiers=["Programming Language :: Python :: 3", "Typing :: Typed"],
    python_requires=">=3.11",
    # configs/ stands beside the package in the checkout and inside it when installed, so that
    # `ralm pretrain --config runs/...` finds it in both.
    packages=[*find_packages(include=["ralm_jax", "ralm_jax.*"]), "ralm_jax.configs"],
    package_dir={"ralm_jax.configs": "configs"},
    package_data={
        "ralm_jax.configs": ["**/*.gin"],
        "ralm_jax": ["py.typed"],
        "ralm_jax.serving": ["page/*"],
    },
    install_requires=DEPENDENCIES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["ralm = ralm_jax.cli:main"]},
)
