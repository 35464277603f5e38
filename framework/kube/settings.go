package kube

import (
	"context"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/turnstile-go/turnstile/framework/internal/logs"
)

// followSettings adjusts the service to what the ConfigMap says, until ctx is done.
func (p *Pod) followSettings(ctx context.Context) {
	log := p.service.Log.With("configmap", p.cfg.ConfigMap)
	failing := &trouble{log: log, what: "the settings are not followed"}
	var last map[string]string // nil is what the service was started with
	known := false
	follow(ctx, p.api.configMaps(), p.cfg.ConfigMap, func(found []*unstructured.Unstructured) {
		var configMap struct {
			Data map[string]string `json:"data"`
		}
		for _, u := range found {
			if err := decode(u, &configMap); err != nil {
				log.WarnContext(ctx, "kubernetes: the ConfigMap is of no use; nothing changes", "error", err)
				return
			}
		}
		if known && maps.Equal(last, configMap.Data) {
			return
		}
		first := !known
		last, known = configMap.Data, true
		err := p.service.Adjust(last)
		switch {
		case err != nil:
			log.WarnContext(ctx, "not all settings apply: correct the ConfigMap",
				logs.Notice("SettingsRejected"), "configmap", p.cfg.ConfigMap, "error", err)
		case len(found) == 0 && first:
			log.InfoContext(ctx, "kubernetes: the ConfigMap does not exist; what the service was started with applies until it does")
		case len(found) == 0:
			log.InfoContext(ctx, "the ConfigMap is gone: what the service was started with applies",
				logs.Notice("SettingsApplied"), "configmap", p.cfg.ConfigMap)
		case len(last) > 0 || !first:
			log.InfoContext(ctx, "settings apply",
				logs.Notice("SettingsApplied"), "configmap", p.cfg.ConfigMap, "variables", slices.Sorted(maps.Keys(last)))
		}
	}, func(err error) { failing.set(ctx, err) })
}
