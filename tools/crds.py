"""Write the CRDs made of the models to crds/ and into the chart; with --check only say whether they are up to date."""

import sys
from pathlib import Path

import yaml

from milepost_operator.crds.generate import all_crds

ROOT = Path(__file__).resolve().parent.parent
TARGETS = (ROOT / "crds", ROOT / "charts" / "milepost" / "files" / "crds")
HEADER = "# Made by tools/crds.py from the models in operator/src/milepost_operator/crds: change those.\n"


class _Dumper(yaml.SafeDumper):
    """No anchors: the same text wherever a part is used twice."""

    def ignore_aliases(self, data: object) -> bool:
        del data
        return True


def rendered() -> dict[Path, str]:
    """Every file that should be there, with its text."""
    texts = {
        name: HEADER + yaml.dump(crd, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
        for name, crd in all_crds().items()
    }
    return {target / name: text for target in TARGETS for name, text in texts.items()}


def main() -> int:
    check = "--check" in sys.argv[1:]
    files = rendered()
    extra = {path for target in TARGETS for path in target.glob("*.yaml")} - set(files)
    stale = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    if check:
        for path in [*stale, *extra]:
            print(f"{path.relative_to(ROOT)} is not what tools/crds.py makes: run it")
        return 1 if stale or extra else 0
    for path in extra:
        path.unlink()
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path])
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
