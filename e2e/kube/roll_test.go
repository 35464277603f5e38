package kube

import (
	"fmt"
	"strconv"
	"testing"
	"time"
)

// TestRollingUpdate replaces every service by itself, and by another image of itself, again and again, while people use
// them. Nobody notices.
func TestRollingUpdate(t *testing.T) {
	a := deployed(t)
	versions := []map[string]string{build(t)}
	other, err := buildImages(t.Context(), programs(), "--image-label", "org.opencontainers.image.version=other")
	if err != nil {
		t.Fatal(err)
	}
	versions = append(versions, other)
	tr := a.traffic(t)
	var took []time.Duration
	for round := range *rounds {
		begin := time.Now()
		for _, name := range services {
			a.patch(t, name, fmt.Sprintf(`{"spec":{"template":{
				"metadata":{"annotations":{"round":%q}},
				"spec":{"containers":[{"name":"service","image":%q}]}}}}`, strconv.Itoa(round+1), versions[(round+1)%2][name]))
		}
		a.awaitReady(t)
		took = append(took, time.Since(begin))
		t.Logf("round %d of %d took %v", round+1, *rounds, took[round].Round(time.Millisecond))
		if s := tr.Stats(); s.Failed+s.Unanswered > 0 {
			t.Errorf("round %d: %d requests have failed", round+1, s.Failed+s.Unanswered)
			break // why is in the failures
		}
	}
	tr.finish(t, false)
	middle, most := median(took)
	t.Logf("%d rolling updates of each of %d services: median %v, longest %v", len(took), len(services), middle, most)
}
