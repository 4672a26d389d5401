package main

import (
	"encoding/json"
	"flag"
	"net/http"
)

type review struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Request    *struct {
		UID    string `json:"uid"`
		Object struct {
			Metadata struct {
				Labels map[string]string `json:"labels"`
			} `json:"metadata"`
		} `json:"object"`
	} `json:"request,omitempty"`
	Response *verdict `json:"response,omitempty"`
}

type verdict struct {
	UID     string            `json:"uid"`
	Allowed bool              `json:"allowed"`
	Status  map[string]string `json:"status,omitempty"`
}

// admit is a validating webhook that refuses what has the label refuse=yes.
func admit(args []string) error {
	flags := flag.NewFlagSet("admit", flag.ExitOnError)
	address := flags.String("https", ":8443", "where it listens")
	certificate := flags.String("certificate", "/tls/tls.crt", "PEM file")
	key := flags.String("key", "/tls/tls.key", "PEM file")
	_ = flags.Parse(args)
	return http.ListenAndServeTLS(*address, *certificate, *key, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var asked review
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil || asked.Request == nil {
			http.Error(w, "an AdmissionReview is needed", http.StatusBadRequest)
			return
		}
		answer := verdict{UID: asked.Request.UID, Allowed: asked.Request.Object.Metadata.Labels["refuse"] != "yes"}
		if !answer.Allowed {
			answer.Status = map[string]string{"message": "refused by the webhook in " + podName()}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review{APIVersion: asked.APIVersion, Kind: asked.Kind, Response: &answer})
	}))
}
