"""The version of this release: of `ralm --version`, the package, the documentation and what runs record."""

VERSION = "0.1.0"
