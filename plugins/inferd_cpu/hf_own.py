"""What single types say in a config.json in a way of their own, as metadata of a GGUF file."""

from dataclasses import replace
from typing import Any, Final

import numpy as np

from inferd_cpu.hf_rope import FULL, MAX_WIDTH, SLIDING, HfRope

CONVOLVES: Final = "conv"
_GROUPS_OF: Final = {"greedy": False, "group_limited_greedy": True}
_FARTHER: Final = frozenset({"deepseek_v3", "glm4_moe", "ernie4_5_moe"})


class HfOwn(HfRope):
    """The settings of one model that few types have.

    Attributes:
        layers: How many it has.
        heads: How many of queries, and of keys and values, where these are the same in all layers.
        farther: Layers behind the last one that predict tokens farther ahead; they are not used.
    """

    layers: int
    heads: tuple[int, int]
    farther: int

    def _read_type(self) -> None:
        """All that the type has besides `KEYS`."""
        for key, name in self.type.keys.items():
            if (value := self._get(name)) is not None:
                self._put(key, value)
        for name, wanted in self.type.only.items():
            unread = name == "parallel_attn" and self._settings.get("new_decoder_architecture") is True
            if (value := self._get(name)) is not None and value != wanted and not unread:
                raise self._error(name, f"is {str(value)[:80]}, which is not supported; supported is {wanted}")
        self._used.update(self.type.ignored)
        if self.type.gating:
            self._put("expert_gating_func", self.type.gating)
        self.layers, heads = self._size("num_hidden_layers"), self._get("num_attention_heads")
        self.heads = (heads, heads) if type(heads) is int and heads > 0 else (1, 1)
        ahead = self._settings.get("num_nextn_predict_layers")
        self.farther = self._size("num_nextn_predict_layers") if self._named in _FARTHER and ahead else 0
        readers = {"deepseek_v2": self._read_deepseek2, "lfm2": self._read_lfm2, "minicpm": self._read_minicpm}
        readers |= {"ernie4_5_moe": self._read_ernie_moe, "hunyuan_v1_moe": self._read_hunyuan_moe}
        readers |= {"gpt_bigcode": self._read_heads, "falcon": self._read_heads}
        if self._family.latent:
            self._read_latent()
        if self._family.convolutions:
            self._read_convolutions()
        if (read := readers.get(self._named)) is not None:
            read()

    def _find_kinds(self) -> Any:
        """The kind of each layer, where the settings say it in any way."""
        attends = self._get("full_attn_idxs") if self._family.convolutions else None
        if (kinds := self._get("layer_types")) is not None:
            return kinds
        count = min(self._size("num_hidden_layers"), MAX_WIDTH)
        if isinstance(attends, list):
            known = {i for i in attends if type(i) is int}
            return [FULL if i in known else CONVOLVES for i in range(count)]
        if self._named == "dots1" and self._get("sliding_window") is not None:
            first = self._get("max_window_layers")
            return [SLIDING if i >= first else FULL for i in range(count)] if type(first) is int else None
        return None

    def _read_latent(self) -> None:
        """Keys are wider by what is rotated."""
        rotated, rank = self._size("qk_rope_head_dim"), self._size("kv_lora_rank")
        self._put("attention.key_length_mla", self._size("qk_nope_head_dim") + rotated)
        self._put("attention.key_length", rank + rotated)
        self._put("attention.value_length", rank)

    def _read_deepseek2(self) -> None:
        """Groups count where the way to choose says so."""
        method = self._get("topk_method")
        if not isinstance(method, str) or method not in _GROUPS_OF:
            raise self._error("topk_method", f"is {str(method)[:80]!r}; supported: {', '.join(_GROUPS_OF)}")
        if not _GROUPS_OF[method]:
            self._put("expert_group_count", 1)
            self._put("expert_group_used_count", 1)

    def _read_convolutions(self) -> None:
        """Layers without key heads are convolutions."""
        count = self._size("num_hidden_layers")
        kinds = self._find_kinds() or [FULL] * min(count, MAX_WIDTH)
        heads = self._size("num_key_value_heads")
        self._put("attention.head_count_kv", np.array([heads if kind == FULL else 0 for kind in kinds], np.int64))
        if self._named == "lfm2_moe" and self._get("use_expert_bias") is False:
            raise self._error("use_expert_bias", "is false, which is not supported")

    def _read_lfm2(self) -> None:
        """The width of its feed-forward parts is worked out."""
        width = self._size("intermediate_size")
        share, step = self._number("block_ffn_dim_multiplier"), self._size("block_multiple_of")
        if self._flag("block_auto_adjust_ff_dim", default=True):
            width = int(2 * width / 3)
            if share is not None:
                width = -(-int(share * width) // step) * step
        self._put("feed_forward_length", width)

    def _read_minicpm(self) -> None:
        """Scales, of which that of what layers add falls with their count."""
        count, width = self._size("num_hidden_layers"), self._size("hidden_size")
        scale, depth = self._number("scale_emb", 1.0) or 1.0, self._number("scale_depth", 1.0) or 1.0
        self._put("embedding_scale", scale)
        self._put("residual_scale", depth / count**0.5)
        self._put("logit_scale", width / (self._number("dim_model_base", 1.0) or 1.0))

    def _read_ernie_moe(self) -> None:
        """Experts from a first layer on, up to the last."""
        count = self._size("num_hidden_layers")
        last = self._get("moe_layer_end_index")
        if last not in (None, -1) and (type(last) is not int or last < count - 1):
            raise self._error("moe_layer_end_index", f"is {str(last)[:80]}; it must be that of the last layer")
        shared = self._get("moe_num_shared_experts") or 0
        if type(shared) is not int:
            raise self._error("moe_num_shared_experts", f"is {str(shared)[:80]}; it must be a whole number")
        self._put("expert_shared_feed_forward_length", shared * self._size("moe_intermediate_size"))

    def _read_hunyuan_moe(self) -> None:
        """One expert is as wide as a dense part; what is said of each layer must be the same of all."""
        width = self._size("intermediate_size")
        for name, wanted in (("moe_topk", None), ("moe_intermediate_size", width), ("num_shared_expert", 1)):
            value = self._get(name)
            each = value if isinstance(value, list) and value else [value]
            if any(other != each[0] for other in each) or each[0] not in (None, wanted or each[0]):
                raise self._error(name, f"is {str(value)[:80]}, which is not supported; supported is {wanted or 'one'}")
            if name == "moe_topk" and each[0] is not None:
                self._put("expert_used_count", each[0])
        self._put("expert_feed_forward_length", width)
        self._put("expert_shared_feed_forward_length", width)

    def _read_heads(self) -> None:
        """Queries share keys and values, all of them or groups, which are stored one behind the other."""
        heads, shares = self._size("num_attention_heads"), self._flag("multi_query", default=True)
        grouped = self._named == "falcon" and self._flag("new_decoder_architecture", default=False)
        groups = heads
        if self._named == "falcon" and self._get("num_kv_heads", "n_head_kv") is not None:
            groups = self._size("num_kv_heads" if self._get("num_kv_heads") is not None else "n_head_kv")
        self.heads = heads, groups if grouped else 1 if shares else heads
        self._put("attention.head_count_kv", self.heads[1])
        if grouped or not shares:
            names = {
                name: f"{short}_heads" if short == "attn_qkv" else short for name, short in self.type.names.items()
            }
            self.type = replace(self.type, names=names)
