// crdserver is the part of Kubernetes' API server that serves custom resources, by itself on loopback: definitions with
// CEL validation, server-side apply, tables, and watches, as in a cluster. There are no core types behind it but an
// empty list of namespaces, and everybody may do everything, but for what the file FORBID names.
//
//	crdserver ETCD PORT CERTIFICATE KEY FORBID
//
// FORBID need not exist. Each of its lines is a resource (kubearmorpolicies); who lists or watches it is answered 403,
// and watches that are open when it comes go on.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.opentelemetry.io/otel/trace/noop"
	"k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apiextensions-apiserver/pkg/cmd/server/options"
	generatedopenapi "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/util/openapi"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/kubernetes/scheme"
)

// noServices finds services for conversion webhooks, of which there are none.
type noServices struct{}

func (noServices) ResolveEndpoint(namespace, name string, port int32) (*url.URL, error) {
	return nil, fmt.Errorf("there is no service %s/%s", namespace, name)
}

// forbid answers 403 for the resources that the file names, as RBAC would.
func forbid(file string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, _ := os.ReadFile(file)
		for _, resource := range strings.Fields(string(text)) {
			if r.Method == http.MethodGet && path.Base(r.URL.Path) == resource {
				status := metav1.Status{
					TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
					Status:   metav1.StatusFailure, Reason: metav1.StatusReasonForbidden, Code: http.StatusForbidden,
					Message: resource + " is forbidden: this user cannot list it at the cluster scope",
				}
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(http.StatusForbidden)
				_ = json.NewEncoder(w).Encode(status)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// namespaces answers for the one core kind that is followed: there are none, and a watch tells so by bookmarks.
func namespaces(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/api/v1/namespaces" {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Query().Get("watch") == "" {
			fmt.Fprintln(w, `{"kind":"NamespaceList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[]}`)
			return
		}
		for {
			fmt.Fprintln(w, `{"type":"BOOKMARK","object":{"kind":"Namespace","apiVersion":"v1","metadata":{"resourceVersion":"1"}}}`)
			if http.NewResponseController(w).Flush() != nil {
				return
			}
			select {
			case <-r.Context().Done():
				return
			case <-time.After(time.Minute):
			}
		}
	})
}

func serve(arguments []string) error {
	if len(arguments) != 5 {
		return fmt.Errorf("usage: crdserver ETCD PORT CERTIFICATE KEY FORBID")
	}
	etcd, certificate, key, forbidden := arguments[0], arguments[2], arguments[3], arguments[4]
	port, err := strconv.Atoi(arguments[1])
	if err != nil {
		return err
	}
	server := options.NewCustomResourceDefinitionsServerOptions(os.Stdout, os.Stderr)
	recommended := server.RecommendedOptions
	recommended.Etcd.StorageConfig.Transport.ServerList = []string{etcd}
	recommended.SecureServing.BindAddress = net.ParseIP("127.0.0.1")
	recommended.SecureServing.BindPort = port
	recommended.SecureServing.ServerCert.CertKey.CertFile = certificate
	recommended.SecureServing.ServerCert.CertKey.KeyFile = key
	recommended.Authentication, recommended.Authorization = nil, nil
	recommended.CoreAPI, recommended.Admission = nil, nil
	recommended.Features.EnablePriorityAndFairness = false
	if err := server.ServerRunOptions.ComponentGlobalsRegistry.Set(); err != nil {
		return err
	}
	if err := server.Complete(); err != nil {
		return err
	}
	config := genericapiserver.NewRecommendedConfig(apiserver.Codecs)
	if err := server.ServerRunOptions.ApplyTo(&config.Config); err != nil {
		return err
	}
	if err := recommended.ApplyTo(config); err != nil {
		return err
	}
	resources := apiserver.DefaultAPIResourceConfigSource()
	if err := server.APIEnablement.ApplyTo(&config.Config, resources, apiserver.Scheme); err != nil {
		return err
	}
	definitions := openapi.GetOpenAPIDefinitionsWithoutDisabledFeatures(generatedopenapi.GetOpenAPIDefinitions)
	namer := openapinamer.NewDefinitionNamer(apiserver.Scheme, scheme.Scheme)
	config.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(definitions, namer)
	config.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(definitions, namer)
	config.BuildHandlerChainFunc = func(handler http.Handler, config *genericapiserver.Config) http.Handler {
		return forbid(forbidden, namespaces(genericapiserver.DefaultBuildHandlerChain(handler, config)))
	}
	extensions := &apiserver.Config{GenericConfig: config, ExtraConfig: apiserver.ExtraConfig{
		CRDRESTOptionsGetter: options.NewCRDRESTOptionsGetter(
			*recommended.Etcd, config.ResourceTransformers, config.StorageObjectCountTracker),
		ServiceResolver: noServices{},
		AuthResolverWrapper: webhook.NewDefaultAuthenticationInfoResolverWrapper(
			nil, nil, config.LoopbackClientConfig, noop.NewTracerProvider()),
	}}
	prepared, err := extensions.Complete().New(genericapiserver.NewEmptyDelegate())
	if err != nil {
		return err
	}
	until, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return prepared.GenericAPIServer.PrepareRun().RunWithContext(until)
}

func main() {
	if err := serve(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "crdserver:", err)
		os.Exit(1)
	}
}
