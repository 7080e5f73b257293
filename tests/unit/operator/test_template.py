"""Which pods are alike beside what their Tasks say."""

from dataclasses import replace

from milepost_operator.manifests.job import PodSettings, template_hash

SETTINGS = PodSettings("runner:1", "sidecar:1", "https://api")


def test_a_template_is_named_by_all_that_the_installation_puts_into_pods() -> None:
    name = template_hash(SETTINGS)
    assert name == template_hash(replace(SETTINGS))
    for changed in ({"runner_image": "runner:2"}, {"sidecar_image": "sidecar:2"}, {"ca": "another"}, {"limits": {}}):
        assert template_hash(replace(SETTINGS, **changed)) != name, changed  # type: ignore[arg-type]
