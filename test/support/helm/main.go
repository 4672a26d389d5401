// Renders a chart as Helm does: the chart's directory is the argument, cases come as JSON on standard input and what is
// rendered goes to standard output, a list of template texts (or an error) for each case.
package main

import (
	"encoding/json"
	"log"
	"os"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"helm.sh/helm/v4/pkg/strvals"
)

type request struct {
	Namespace string         `json:"namespace"`
	Values    map[string]any `json:"values"`
	Set       []string       `json:"set"`
}

type answer struct {
	Texts map[string]string `json:"texts,omitempty"`
	Error string            `json:"error,omitempty"`
}

func main() {
	var requests []request
	if err := json.NewDecoder(os.Stdin).Decode(&requests); err != nil {
		log.Fatal(err)
	}
	answers := make([]answer, len(requests))
	for i, each := range requests {
		texts, err := render(os.Args[1], each)
		if err != nil {
			answers[i].Error = err.Error()
		}
		answers[i].Texts = texts
	}
	if err := json.NewEncoder(os.Stdout).Encode(answers); err != nil {
		log.Fatal(err)
	}
}

func render(directory string, wanted request) (map[string]string, error) {
	chart, err := loader.LoadDir(directory)
	if err != nil {
		return nil, err
	}
	values := wanted.Values
	if values == nil {
		values = map[string]any{}
	}
	for _, each := range wanted.Set {
		if err := strvals.ParseInto(each, values); err != nil {
			return nil, err
		}
	}
	release := common.ReleaseOptions{Name: "meltemi", Namespace: wanted.Namespace, IsInstall: true, Revision: 1}
	all, err := util.ToRenderValues(chart, values, release, common.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	return engine.Render(chart, all)
}
