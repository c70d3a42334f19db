"""Models that ZeRO-3 must leave whole."""

import pytest

from dro_trl.lm.sharding import loading_whole

deepspeed = pytest.importorskip("transformers.integrations.deepspeed")
pytest.importorskip("deepspeed", reason="needs the extra: pip install 'dro-trl[deepspeed]'")


def test_zero3_is_off_for_what_is_loaded_within():
    """Also after an error; and without DeepSpeed nothing happens."""
    with loading_whole():
        assert not deepspeed.is_deepspeed_zero3_enabled()
    config = deepspeed.HfDeepSpeedConfig({"zero_optimization": {"stage": 3}})
    try:
        with pytest.raises(OSError, match="no such model"), loading_whole():
            raise OSError("no such model" * (not deepspeed.is_deepspeed_zero3_enabled()))
        assert deepspeed.is_deepspeed_zero3_enabled()
        assert deepspeed.deepspeed_config() is config.config
    finally:
        deepspeed.unset_hf_deepspeed_config()
