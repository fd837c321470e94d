// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// What gangd has to do with the switchover policies (switchover.h): one policy a
// gang, no all-or-nothing gang that is not whole, and word of members that have
// gone. The members do the rest by themselves, with or without gangd.

#include "coordinator.h"

#include <spdlog/spdlog.h>

#include "control_message.h"

namespace gangd {

using gang::SwitchoverPolicy;
using nlohmann::json;

Refusal Coordinator::ReadPolicy(const Gang *gang, const json &request, SwitchoverPolicy *policy) {
    std::string name;
    *policy = SwitchoverPolicy::kIndependent;
    if (request.contains("policy") && (!gang::GetString(request, "policy", &name) ||
                                       !gang::SwitchoverPolicyFromName(name, policy))) {
        return {"incompatible",
                "unknown policy; this gangd knows independent, together and all-or-nothing"};
    }
    if (gang && gang->expected && gang->policy != *policy) {
        return {"invalid", "gang " + gang->id + " moves by the policy " +
                               gang::SwitchoverPolicyName(gang->policy) + ", not " +
                               gang::SwitchoverPolicyName(*policy) +
                               ": set the same gang-policy at all its VMs"};
    }
    if (gang && gang->refused) {
        return {"invalid", "gang " + gang->id +
                               " has been given up: start all its VMs again when "
                               "the last one has ended"};
    }
    return {};
}

// The barrier falls.  True: they are too few, and all have been told.
bool Coordinator::RefuseIncomplete(Gang *gang) {
    if (gang->policy != SwitchoverPolicy::kAllOrNothing || !gang->missing) {
        return false;
    }
    gang->refused = true;
    const std::string text =
        "gang " + gang->id + " moves all-or-nothing, and of its " + std::to_string(gang->expected) +
        " members only " + std::to_string(gang->joined) +
        " came in time (gangd --barrier-timeout), or stayed: no VM leaves the source";
    spdlog::error("{}", text);
    for (const auto &m : gang->members) {
        if (m->peer) {
            m->peer->Send({{"error", text}, {"code", "invalid"}}, -1);
            m->peer->Drop();
        }
    }
    return true;
}

void Coordinator::SetUpPolicy(Gang *gang) const {
    gang::InitSwitchover(gang->board.get(), gang->policy, static_cast<uint32_t>(gang->expected),
                         limits_.ready_ms, limits_.stopped_ms);
}

// The members look for themselves too; this is sooner, and knows those without a record.
void Coordinator::MemberGone(Gang *gang, const Member &member, bool said) {
    if (!gang->board || gang->policy == SwitchoverPolicy::kIndependent) {
        return;
    }
    const gang::SwitchoverFigures before = gang::ReadSwitchover(*gang->board);
    if (member.state != "completed") {
        gang::GiveUpSwitchover(gang->board.get(),
                               !said                         ? gang::GiveUpReason::kDied
                               : member.state == "cancelled" ? gang::GiveUpReason::kCancelled
                                                             : gang::GiveUpReason::kFailed,
                               member.has_board ? member.board_index : gang::kMaxMembers);
    }
    const gang::SwitchoverFigures after = gang::ReadSwitchover(*gang->board);
    using Verdict = gang::GangDecision::Verdict;
    if (after.decision.verdict == Verdict::kGivenUp && !gang->told) {
        spdlog::warn("gang {}: given up, since {} {}; no VM leaves the source", gang->id,
                     member.name,
                     before.decision.verdict == Verdict::kGivenUp
                         ? "and others found that it cannot move as a whole"
                         : member.state);
        gang->told = true;
    }
    if (Alive(*gang) == 0 && after.stopped) {
        spdlog::info("gang {}: {}: {} VMs stopped within {:.3f} ms, {} later", gang->id,
                     gang::SwitchoverPolicyName(gang->policy), after.stopped - after.late,
                     static_cast<double>(after.skew_ns) / 1e6, after.late);
    }
}

json Coordinator::PolicyStatus(const Gang &gang) {
    json status = {{"policy", gang::SwitchoverPolicyName(gang.policy)}};
    if (!gang.board || gang.policy == SwitchoverPolicy::kIndependent) {
        return status;
    }
    const gang::SwitchoverFigures f = gang::ReadSwitchover(*gang.board);
    status["ready"] = f.ready;
    status["stopped"] = f.stopped;
    status["late"] = f.late;
    status["skew-us"] = f.skew_ns / 1000;
    if (gang.policy == SwitchoverPolicy::kAllOrNothing) {
        using Verdict = gang::GangDecision::Verdict;
        status["decision"] = f.decision.verdict == Verdict::kOpen        ? "open"
                             : f.decision.verdict == Verdict::kCommitted ? "committed"
                                                                         : "given-up";
    }
    return status;
}

} // namespace gangd
