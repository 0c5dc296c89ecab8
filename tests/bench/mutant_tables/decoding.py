"""Acceptance, the loop around it, and what ends an answer."""

from __future__ import annotations

TESTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "harness/verify.py": (
        ("tests/test_verify.py", "-k", "not joint and not planted"),
        ("tests/test_verify.py", "-k", "joint"),
    ),
    "harness/decode.py": (
        ("tests/test_decode.py",),
        ("tests/test_lossless.py", "-k", "limits or context or earlier"),
    ),
    "harness/stopping.py": (("tests/test_stopping.py",),),
}

MUTANTS: dict[str, tuple[tuple[str, str], ...]] = {
    "harness/verify.py": (
        # greedy and match
        ("    return logits.max(-1).indices", "    return logits.max(0).indices"),
        ("    return logits.max(-1).indices", "    return logits.flip(-1).max(-1).indices"),
        ("children.get((node, own[node + 1]))", "children.get((node, own[node]))"),
        ("for item in path), own[node + 1])", "for item in path), own[node])"),
        ("for item in path), own[node + 1])", "for item in path), own[-1])"),
        ('proposal.rule == "rejection" and proposal.q is not None', "proposal.q is None"),
        # rejection
        ("coins * q.gather(1, column)[:, 0] < p", "coins * q.gather(1, column)[:, 0] > p"),
        ("coins * q.gather(1, column)[:, 0] < p", "coins < p"),
        ("    accepted = passed.long().cumprod(0)", "    accepted = passed.long()"),
        ("accepted.clamp(max=n - 1))[0] * (accepted < n)", "accepted.clamp(max=n - 1))[0]"),
        ("(row - refused).clamp_(min=0), row", "row, row"),
        ("(row - refused).clamp_(min=0), row", "(row - refused).abs_(), row"),
        ("    row = p.index_select(0, accepted)[0]\n    # After", "    row = p[0]\n    # After"),
        ("tuple(chain[:count]), next_token)", "tuple(chain[: count + 1]), next_token)"),
        # multi_round
        ("offsets[attempt] * given\n", "offsets[0] * given\n"),
        ("coins[step] * sums[attempt] * given", "coins[step] * given"),
        ("(alive.cumsum(0) - 1).clamp_(min=0)", "torch.arange(len(alive), device=p.device)"),
        ("alive & passed.any() & (drawn ==", "passed.any() & (drawn =="),
        ("alive & passed.any() & (drawn ==", "passed & (drawn =="),
        ("index_select(0, alive.sum(0, keepdim=True))", "index_select(0, alive[:1].long())"),
        ("(*taken, p.new_zeros(1))", "(*taken, taken[-1])"),
        ("offset = offset + rest", "offset = rest"),
        ("left.clamp_(min=0), row", "row, row"),
        # select
        ("steps.cumprod(1).sum(1).argmax", "steps.cumprod(1).sum(1).argmin"),
        ("steps.cumprod(1).sum(1).argmax", "steps.sum(1).argmax"),
        ("given = p[parents + 1]", "given = p[parents]"),
        ("coins < chances", "coins < chances * 1.1"),
        ("row.scatter(0, tokens[refused], 0.0)", "row"),
        ("nodes[accepted] + 1)[0]", "nodes[accepted])[0]"),
        ("torch.where(refused >= 0, without, row)", "without"),
        ("    weights = torch.where(weights.sum() > 0, weights, otherwise)\n", ""),
    ),
    "harness/decode.py": (
        ("            prefilled = clock.now()\n", "            prefilled = started\n"),
        ("        prefill_s=prefilled - started", "        prefill_s=finished - started"),
        ("        decode_s=finished - prefilled", "        decode_s=finished - started"),
        ("        drafter.reset()\n", "        pass\n"),
        ("budget = stopping.remaining - 1", "budget = stopping.remaining"),
        ("budget = stopping.remaining - 1", "budget = stopping.remaining - 2"),
        ("if budget > 0 else nothing", "if budget >= 0 else nothing"),
        ("(*verdict.tokens, verdict.next_token))", "(*verdict.tokens,) or (verdict.next_token,))"),
        ("top, verdict.accepted, committed", "top, committed - 1, committed"),
        ("top, verdict.accepted, committed", "top, verdict.accepted, verdict.accepted + 1"),
        ("len(proposal.parents), top", "len(top), top"),
        ("target.commit(verdict.path)", "target.commit(())"),
        ("prefix += (pending, *verdict.tokens)", "prefix += verdict.tokens"),
        ("        pending = verdict.next_token\n", ""),
        ("proposal.tokens.clone() if", "proposal.tokens if"),
        ("if nodes > max_nodes:", "if nodes > max_nodes + 9:"),
        ("if depth > budget:", "if depth > budget + 9:"),
        ("path.insert(0, proposal.parents[path[0]])", "path.append(proposal.parents[path[0]])"),
        ("features[: len(path) + 1]", "features[: len(path)]"),
        ("[0, *(node + 1 for node in path)]", "[0, *path]"),
        ("    if room < 1:", "    if room < 0:"),
    ),
    "harness/stopping.py": (
        ("len(text.encode()) for", "len(text) for"),
        ("longest + TAIL_TOKENS", "TAIL_TOKENS"),
        ("longest = max((len", "longest = min((len"),
        ("kept = tokens[: self.remaining]", "kept = tokens[: self.remaining + 1]"),
        ('kept, reason = kept[:count], "stop"', 'kept, reason = kept[: count - 1], "stop"'),
        ("self._limit = min(max_new_tokens, room)", "self._limit = max_new_tokens"),
        ("if max_new_tokens <= room else", "if max_new_tokens < room else"),
        ('kept, reason = kept[:completed], "stop_string"', 'reason = "stop_string"'),
    ),
}
