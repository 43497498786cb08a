"""What a rule about one model or one tenant gives, and keeps back: no more and no less than it says."""

from pathlib import Path

from guarded import guarded, refused

from inferd_api.v1 import lease_pb2 as lp


async def test_who_may_not_run_a_model_leases_none_of_it(tmp_path: Path) -> None:
    """A rule that denies running a model denies claims of it, too; others claim it."""
    async with guarded(tmp_path) as kernel:
        await kernel.owner.create("llama-70b", max_sequences=2)
        await kernel.rule("*", verbs=["VERB_RUN"], models="llama-70b*", tenants="web*")
        claim = lp.Claim(model=lp.ModelClaim(model="llama-70b", sequences=2))
        web, research = [await kernel.login("user", tenants=[tenant]) for tenant in ("web", "research")]
        reason, facts = await refused(kernel.tcp.claim(claim, metadata=web))
        assert (reason, facts["verb"], facts["model"]) == ("PERMISSION_DENIED", "run", "llama-70b")
        assert (await kernel.tcp.claim(claim, metadata=research, wait=True)).lease_id
