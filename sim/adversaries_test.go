package sim_test

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/sim"
)

// attack is one row of the list of attacks in docs/TESTING.md as runs of the simulator.
type attack struct {
	behaviour  string   // of f Byzantine replicas, the first primaries; empty: none
	badClients []string // beside the correct ones
	at         int      // the first of them follows so many correct ones in the rotation
	shape      func(p *sim.Plan)
	seeds      uint64 // for each size; 0 is 3
	did        []string
	check      func(t *testing.T, r sim.Result)
}

func (a attack) count() uint64 {
	if a.seeds == 0 {
		return 3
	}
	return a.seeds
}

// against runs the attack on clusters of four, and of seven with two accomplices. Every oracle must
// hold, clients must be served, and the attack must have happened.
func against(t *testing.T, a attack) {
	t.Helper()
	m := newMischief()
	for _, n := range []int{4, 7} {
		for seed := range a.count() {
			o := watched(m)
			o.Scenario, o.Replicas = "calm", n
			p, err := sim.Draw(7000+seed, o)
			if err != nil {
				t.Fatal(err)
			}
			p.Scenario, p.Behaviour, p.BadClients = t.Name(), a.behaviour, a.badClients
			p.Loss, p.Duplicate, p.Straggle, p.PoolBundles, p.Core = 0.01, 0.02, 0.01, 0, false
			if a.behaviour != "" {
				for i := range (n - 1) / 3 {
					p.Byzantine = append(p.Byzantine, smr.NodeID(a.at+i+1))
				}
			}
			if a.shape != nil {
				a.shape(&p)
			}
			o.Plan = &p
			r, err := sim.Run(7000+seed, o)
			if err != nil {
				t.Fatal(err)
			}
			if !r.OK() {
				t.Errorf("seed %d, %d replicas: %s\n%+v", 7000+seed, n, r.Failure, p)
			}
			if r.Counts.Acknowledged == 0 || r.Counts.Excused > 0 {
				t.Errorf("seed %d, %d replicas: %d operations acknowledged, excused %d", 7000+seed, n, r.Counts.Acknowledged, r.Counts.Excused)
			}
			if len(a.badClients) > 0 && r.Counts.BadBundles < 20 {
				t.Errorf("seed %d, %d replicas: the bad clients sent %d bundles", 7000+seed, n, r.Counts.BadBundles)
			}
			if a.check != nil {
				a.check(t, r)
			}
		}
	}
	for _, k := range a.did {
		if m.changed[k]+m.dropped[k]+m.delayed[k]+m.kept[k] == 0 {
			t.Errorf("the attack touched no %s", k)
		}
	}
}

// times adds a fault again and again.
func times(p *sim.Plan, kind sim.FaultKind, count int, every, lasts time.Duration) {
	for i := range count {
		p.Faults = append(p.Faults, sim.Fault{Kind: kind, At: time.Duration(i+1) * every, For: lasts, Seed: uint64(i)})
	}
}

// changing cuts off one correct primary after another, so that liars open views.
func changing(p *sim.Plan) {
	p.Timeout = 300 * time.Millisecond
	times(p, sim.FaultIsolate, 4, 600*time.Millisecond, time.Second)
}

// missing cuts replicas off for long and lets all restart, so that they ask for what they missed.
func missing(p *sim.Plan) {
	p.Window, p.Think, p.RetainBytes = 16, 10*time.Millisecond, 1<<20
	p.CheckpointBytes, p.Checkpoint = 32<<10, time.Millisecond
	times(p, sim.FaultPartition, 4, 700*time.Millisecond, 1200*time.Millisecond)
	times(p, sim.FaultPowerLoss, 2, 1300*time.Millisecond, 200*time.Millisecond)
}

func TestAdversaryForgedCertificatesOfAnyShapeMoveNothing(t *testing.T) {
	against(t, attack{behaviour: "forge", did: []string{"certificate", "heartbeat", "checkpoint/4"}})
}

func TestAdversaryForgedViewChangesInOthersNames(t *testing.T) {
	against(t, attack{behaviour: "forge+replay+view-storm", did: []string{"timeout", "timeout-certificate", "forwarded-protocol/0"}})
}

func TestAdversaryEquivocatingPrimaryTwoAndThreeWays(t *testing.T) {
	against(t, attack{behaviour: "equivocate", seeds: 6, did: []string{"proposal", "prepare", "commit"}})
}

func TestAdversaryEquivocatingVoter(t *testing.T) {
	against(t, attack{behaviour: "vote-for-all", did: []string{"prepare", "commit"}})
	against(t, attack{behaviour: "equivocate+vote-for-all", did: []string{"prepare", "commit"}})
}

func TestAdversaryVotesForBothSidesByTwins(t *testing.T) {
	against(t, attack{behaviour: "twins", seeds: 4})
}

func TestAdversaryVotesAndCertificatesBeforeTheirProposalAndAfter(t *testing.T) {
	against(t, attack{behaviour: "disorder", did: []string{"proposal", "prepare", "commit"}})
}

func TestAdversaryBadContentInAWellFormedProposal(t *testing.T) {
	against(t, attack{behaviour: "bad-proposals", seeds: 6, did: []string{"proposal"}})
}

func TestAdversaryNewPrimaryIgnoresTheHighestCertificate(t *testing.T) {
	against(t, attack{behaviour: "lie", at: 1, shape: changing, seeds: 6, did: []string{"timeout"}})
	against(t, attack{behaviour: "two-new-views", at: 1, shape: changing, did: []string{"proposal"}})
}

func TestAdversaryAncientViewChangesReplayed(t *testing.T) {
	against(t, attack{behaviour: "replay", at: 1, shape: changing, did: []string{"timeout", "proposal", "forwarded-protocol/0"}})
}

func TestAdversaryStormOfViewChanges(t *testing.T) {
	against(t, attack{behaviour: "view-storm", shape: func(p *sim.Plan) { p.Sync, p.Skew = 40*time.Millisecond, 300*time.Millisecond }, did: []string{"complaint", "timeout"}})
}

func TestAdversarySilentPrimariesInARow(t *testing.T) {
	against(t, attack{behaviour: "silent", seeds: 6, did: []string{"proposal"}})
}

func TestAdversaryViewsAndSequenceNumbersAMillionAheadAndOverflowing(t *testing.T) {
	against(t, attack{behaviour: "inflate", did: []string{"prepare", "commit", "timeout", "heartbeat", "checkpoint/3"}, check: func(t *testing.T, r sim.Result) {
		if r.Counts.Views > 100_000 {
			t.Errorf("a lone replica moved the others to view %d", r.Counts.Views)
		}
	}})
}

func TestAdversaryEachProposalDelayedToJustUnderTheTimeout(t *testing.T) {
	against(t, attack{behaviour: "slow-primary", did: []string{"proposal"}})
}

func TestAdversaryOneClientsRequestsLeftOut(t *testing.T) {
	against(t, attack{behaviour: "censor", seeds: 6, shape: func(p *sim.Plan) { p.Clients = 4 }, did: []string{"ordered-request/0"}})
}

func TestAdversaryHeartbeatsOnlyFromThePrimary(t *testing.T) {
	against(t, attack{behaviour: "heartbeats-only", did: []string{"ordered-request/0"}, check: func(t *testing.T, r sim.Result) {
		if r.Counts.Views == 0 {
			t.Error("the idle liar stayed primary")
		}
	}})
}

func TestAdversaryEmptyBatchesUnderLoad(t *testing.T) {
	against(t, attack{behaviour: "empty-batches", did: []string{"proposal", "prepare"}, check: func(t *testing.T, r sim.Result) {
		if r.Counts.Views == 0 {
			t.Error("the primary that orders nothing stayed primary")
		}
	}})
}

func TestAdversaryDuplicateReproposals(t *testing.T) {
	against(t, attack{behaviour: "duplicates", did: []string{"proposal"}})
}

func TestAdversaryProposalsShownToExactlyAQuorum(t *testing.T) {
	against(t, attack{behaviour: "quorum-only", shape: func(p *sim.Plan) { p.RetainBytes = 1 << 20 }, did: []string{"proposal", "prepare"}, check: func(t *testing.T, r sim.Result) {
		if r.Counts.Transfers > 0 {
			t.Errorf("%d replicas that were shown nothing took over checkpoints", r.Counts.Transfers)
		}
	}})
	against(t, attack{behaviour: "selective", did: []string{"proposal"}})
}

func TestAdversaryWithheldBundles(t *testing.T) {
	against(t, attack{behaviour: "withhold", badClients: []string{"one-replica-only"}, did: []string{"proposal"}})
}

func TestAdversaryWrongCheckpointRoots(t *testing.T) {
	against(t, attack{behaviour: "wrong-roots", did: []string{"checkpoint/3"}})
}

func TestAdversaryBadShortExtraAndSwappedAnswers(t *testing.T) {
	against(t, attack{behaviour: "bad-answers", shape: missing, seeds: 6, did: []string{"log-transfer/2", "view-transfer/2"}})
}

func TestAdversarySourceThatInflatesItsHeight(t *testing.T) {
	against(t, attack{behaviour: "inflate+bad-answers", shape: missing, did: []string{"view-transfer/2"}})
}

func TestAdversaryReplayFromAnOldSessionAndAfterEviction(t *testing.T) {
	against(t, attack{badClients: []string{"evicted-replays"}, check: someEffect})
}

func TestAdversaryOpNumbersWithGapsAndJumps(t *testing.T) {
	against(t, attack{badClients: []string{"gaps-and-jumps"}, check: func(t *testing.T, r sim.Result) {
		someEffect(t, r)
		if r.Counts.BadRefused == 0 {
			t.Error("op numbers beyond all bounds were taken")
		}
	}})
}

func TestAdversaryOneOpNumberWithDifferentContentsToDifferentReplicas(t *testing.T) {
	against(t, attack{badClients: []string{"two-contents", "two-contents"}, check: someEffect})
	against(t, attack{behaviour: "equivocate", badClients: []string{"two-contents"}, check: someEffect})
}

func TestAdversaryOneOpThroughFPlusOneReplicasAViewChangeAndACheckpoint(t *testing.T) {
	against(t, attack{badClients: []string{"one-replica-only"}, shape: func(p *sim.Plan) {
		p.CheckpointBytes = 2 << 10
		times(p, sim.FaultPrimaryKill, 3, 800*time.Millisecond, 500*time.Millisecond)
	}, check: func(t *testing.T, r sim.Result) {
		someEffect(t, r)
		if r.Counts.Faults[sim.FaultPrimaryKill] == 0 || r.Counts.Checkpoints == 0 {
			t.Errorf("%+v", r.Counts)
		}
	}})
}

func TestAdversaryFloodsLeaveCorrectClientsTheirShare(t *testing.T) {
	against(t, attack{badClients: []string{"floods"}, seeds: 2, check: someEffect})
}

func TestAdversaryManyKeysAndOthersNames(t *testing.T) {
	against(t, attack{badClients: []string{"many-keys"}, check: func(t *testing.T, r sim.Result) {
		if r.Counts.BadRefused == 0 {
			t.Error("no bundle in another's name was refused")
		}
	}})
}

func TestAdversaryHugeRequests(t *testing.T) {
	against(t, attack{badClients: []string{"huge-requests"}, seeds: 1, check: someEffect})
}

func TestAdversarySignatureValidForSomeOnly(t *testing.T) {
	against(t, attack{badClients: []string{"valid-for-some"}, check: func(t *testing.T, r sim.Result) {
		someEffect(t, r)
		if r.Counts.BadRefused == 0 {
			t.Error("no bad signature was refused")
		}
	}})
	against(t, attack{badClients: []string{"crafted-signatures"}, seeds: 1, shape: func(p *sim.Plan) { p.Ed25519 = true }, check: someEffect})
}

func TestAdversaryGarbageFromAClient(t *testing.T) {
	against(t, attack{badClients: []string{"garbage-requests"}, check: func(t *testing.T, r sim.Result) {
		if r.Counts.BadRefused == 0 {
			t.Error("no garbage was refused")
		}
	}})
}

func TestAdversaryFastEqualWrongRepliesStaleReadsAndForgedEviction(t *testing.T) {
	against(t, attack{behaviour: "wrong-replies", seeds: 8, did: []string{"ordered-reply/0", "unordered-reply/0", "advice/0"}})
}

func TestAdversaryGarbageTruncatedAndOversizedFrames(t *testing.T) {
	against(t, attack{behaviour: "garbage", did: []string{"proposal", "fetch/0"}})
}

func TestAdversarySeveralBehavioursAtOnceAndOthersAfterAWhile(t *testing.T) {
	against(t, attack{behaviour: "mix", seeds: 10, badClients: []string{"gaps-and-jumps", "two-contents"}})
}

func someEffect(t *testing.T, r sim.Result) {
	t.Helper()
	if r.Counts.BadOps == 0 {
		t.Error("nothing that the bad clients sent took effect: they attacked nothing")
	}
}

// The table of attacks in docs/TESTING.md names tests that exist.
func TestTheTableOfAttacksNamesTestsThatExist(t *testing.T) {
	doc, err := os.ReadFile("../docs/TESTING.md")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("git", "-C", "..", "grep", "-h", "-o", "^func Test[A-Za-z0-9]*", "--", "*_test.go").Output()
	if err != nil {
		t.Fatalf("git grep: %v", err)
	}
	have := map[string]bool{}
	for _, line := range strings.Fields(string(out)) {
		have[line] = true
	}
	_, table, ok := strings.Cut(string(doc), "## Attacks")
	if !ok {
		t.Fatal("no table of attacks")
	}
	table, _, _ = strings.Cut(table, "\n## ")
	names := regexp.MustCompile(`Test[A-Z][A-Za-z0-9]*`).FindAllString(table, -1)
	for _, name := range names {
		if !have[name] {
			t.Errorf("%s is in no package", name)
		}
	}
	if len(names) < 60 {
		t.Errorf("%d tests named", len(names))
	}
}
