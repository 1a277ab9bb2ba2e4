// crdserver is the part of Kubernetes' API server that serves custom resources, by itself on loopback: definitions with
// CEL validation, server-side apply, tables, and watches, as in a cluster. There are no core types behind it but an
// empty list of namespaces, and everybody may do everything, but for what the file FORBID names.
//
//	crdserver ETCD PORT CERTIFICATE KEY FORBID
//
// FORBID need not exist. Each of its lines is a resource (kubearmorpolicies); who lists or watches it is answered 403,
// and watches that are open when it comes go on.
//
//	crdserver admit
//
// reads a ValidatingAdmissionPolicy and writes of objects, and says of each what the API server would: see questions.
//
//	crdserver mutate
//
// reads a MutatingAdmissionPolicy and pods, and says what the API server would make of each: see created.
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
	admissionregistration "k8s.io/api/admissionregistration/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apiextensions-apiserver/pkg/cmd/server/options"
	generatedopenapi "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	apicel "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/cel/environment"
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

// questions is what admit is asked: which of the writes the policy lets pass. Which resources it is about is not looked at.
type questions struct {
	Policy   admissionregistration.ValidatingAdmissionPolicy `json:"policy"`
	Resource string                                          `json:"resource"`
	Writes   []struct {
		User   string              `json:"user"`
		Extra  map[string][]string `json:"extra"`
		Object map[string]any      `json:"object"`
	} `json:"writes"`
}

// answer is what becomes of a write.
type answer struct {
	Denied []string `json:"denied"`
	Errors []string `json:"errors"`
}

// admit answers what the API server's own code makes of a policy's conditions and expressions.
func admit() error {
	var asked questions
	decoder := json.NewDecoder(os.Stdin)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&asked); err != nil {
		return err
	}
	compiler, err := cel.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	if err != nil {
		return err
	}
	spec := asked.Policy.Spec
	variables := cel.OptionalVariableDeclarations{HasAuthorizer: true}
	compile := func(expressions []cel.ExpressionAccessor, variables cel.OptionalVariableDeclarations) cel.ConditionEvaluator {
		return compiler.CompileCondition(expressions, variables, environment.NewExpressions)
	}
	var conditions, validations, messages []cel.ExpressionAccessor
	for i := range spec.MatchConditions {
		conditions = append(conditions, (*matchconditions.MatchCondition)(&spec.MatchConditions[i]))
	}
	for _, one := range spec.Validations {
		validations = append(validations, &validating.ValidationCondition{
			Expression: one.Expression, Message: one.Message, Reason: one.Reason})
		messages = append(messages, &validating.MessageExpressionCondition{MessageExpression: one.MessageExpression})
	}
	matcher := matchconditions.NewMatcher(compile(conditions, variables), spec.FailurePolicy, "policy", "validate", asked.Policy.Name)
	validator := validating.NewValidator(compile(validations, variables), matcher, compile(nil, variables),
		compile(messages, cel.OptionalVariableDeclarations{}), spec.FailurePolicy, nil)
	answers := []answer{}
	for _, write := range asked.Writes {
		object := &unstructured.Unstructured{Object: write.Object}
		kind := object.GroupVersionKind()
		resource := schema.GroupVersionResource{Group: kind.Group, Version: kind.Version, Resource: asked.Resource}
		who := &user.DefaultInfo{Name: write.User, Extra: write.Extra}
		attributes := admission.NewAttributesRecord(object, nil, kind, object.GetNamespace(), object.GetName(), resource, "",
			admission.Create, &metav1.CreateOptions{}, false, who)
		versioned := &admission.VersionedAttributes{Attributes: attributes, VersionedObject: object, VersionedKind: kind}
		result := validator.Validate(context.Background(), resource, versioned, nil, nil, apicel.RuntimeCELCostBudget, nil)
		said := answer{Denied: []string{}, Errors: []string{}}
		for _, decision := range result.Decisions {
			switch {
			case decision.Evaluation == validating.EvalError:
				said.Errors = append(said.Errors, decision.Message)
			case decision.Action == validating.ActionDeny:
				said.Denied = append(said.Denied, decision.Message)
			}
		}
		answers = append(answers, said)
	}
	return json.NewEncoder(os.Stdout).Encode(answers)
}

func run(arguments []string) error {
	switch {
	case len(arguments) == 1 && arguments[0] == "admit":
		return admit()
	case len(arguments) == 1 && arguments[0] == "mutate":
		return mutate()
	default:
		return serve(arguments)
	}
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "crdserver:", err)
		os.Exit(1)
	}
}
