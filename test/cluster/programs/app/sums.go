package main

import (
	"encoding/json"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

// sums is what a client prints.
type sums struct {
	lock      sync.Mutex
	latencies []float64

	Attempts int            `json:"attempts"`
	Ok       int            `json:"ok"`
	Pods     map[string]int `json:"pods"`    // answers by pod
	Sources  map[string]int `json:"sources"` // answers by the client address that the server saw
	Errors   map[string]int `json:"errors"`  // by kind: refused, reset, timeout, closed, dns, unreachable, http-503…
	// Latency has milliseconds of the attempts that went well.
	Latency struct {
		P50 float64 `json:"p50"`
		P99 float64 `json:"p99"`
		Max float64 `json:"max"`
	} `json:"latencyMs"`
	// FirstErrorAt and LastErrorAt are RFC 3339 times, empty without errors.
	FirstErrorAt string `json:"firstErrorAt"`
	LastErrorAt  string `json:"lastErrorAt"`
}

func newSums() *sums {
	return &sums{Pods: map[string]int{}, Sources: map[string]int{}, Errors: map[string]int{}}
}

func (s *sums) add(pod, source string, err error, took time.Duration) {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.Attempts++
	if err != nil {
		s.Errors[kindOf(err)]++
		s.LastErrorAt = time.Now().UTC().Format(time.RFC3339Nano)
		if s.FirstErrorAt == "" {
			s.FirstErrorAt = s.LastErrorAt
		}
		return
	}
	s.Ok++
	s.Pods[pod]++
	if host, _, err := net.SplitHostPort(source); err == nil {
		source = host
	}
	s.Sources[source]++
	if len(s.latencies) < latenciesKept {
		s.latencies = append(s.latencies, float64(took.Microseconds())/1000)
	} else {
		s.latencies[s.Ok%latenciesKept] = float64(took.Microseconds()) / 1000
	}
}

func (s *sums) print() {
	s.lock.Lock()
	defer s.lock.Unlock()
	if sorted := slices.Sorted(slices.Values(s.latencies)); len(sorted) > 0 {
		s.Latency.P50 = sorted[len(sorted)/2]
		s.Latency.P99 = sorted[len(sorted)*99/100]
		s.Latency.Max = sorted[len(sorted)-1]
	}
	_ = json.NewEncoder(os.Stdout).Encode(s)
}

const latenciesKept = 100_000
