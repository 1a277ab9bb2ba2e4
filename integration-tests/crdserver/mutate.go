package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	admissionregistration "k8s.io/api/admissionregistration/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	apicel "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
)

// The CEL that an API server of Kubernetes 1.32 takes in a new policy: what the version before it knew.
var oldest = version.MajorMinor(1, 31)

// created is what mutate is asked: a policy, and pods that are to be created.
type created struct {
	Policy admissionregistration.MutatingAdmissionPolicy `json:"policy"`
	Pods   []core.Pod                                    `json:"pods"`
}

// mutated is what becomes of a pod. Of one that the policy's conditions leave out, nothing.
type mutated struct {
	Pod     *core.Pod `json:"pod,omitempty"`
	LeftOut bool      `json:"leftOut,omitempty"`
	Error   string    `json:"error,omitempty"`
}

// mutate answers what a MutatingAdmissionPolicy makes of pods, by the API server's own evaluation: conditions, variables,
// mutations. Which namespaces and labels a policy is about is not looked at: the server does that without CEL.
func mutate() error {
	var asked created
	decoder := json.NewDecoder(os.Stdin)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&asked); err != nil {
		return err
	}
	policy, err := compileMutations(asked.Policy)
	if err != nil {
		return err
	}
	answers := []mutated{}
	for i := range asked.Pods {
		pod, err := policy.mutate(&asked.Pods[i])
		answer := mutated{Pod: pod, LeftOut: pod == nil && err == nil}
		if err != nil {
			answer.Error = err.Error()
		}
		answers = append(answers, answer)
	}
	return json.NewEncoder(os.Stdout).Encode(answers)
}

// compiled is a policy whose expressions are programs.
type compiled struct {
	compiler *cel.CompositedCompiler
	matcher  matchconditions.Matcher
	patchers []patch.Patcher
}

func compileMutations(policy admissionregistration.MutatingAdmissionPolicy) (*compiled, error) {
	compiler, err := cel.NewCompositedCompiler(environment.MustBaseEnvSet(oldest))
	if err != nil {
		return nil, err
	}
	spec, options := policy.Spec, cel.OptionalVariableDeclarations{}
	var variables []cel.NamedExpressionAccessor
	for _, one := range spec.Variables {
		variables = append(variables, &validating.Variable{Name: one.Name, Expression: one.Expression})
	}
	compiler.CompileAndStoreVariables(variables, options, environment.NewExpressions)
	var conditions []cel.ExpressionAccessor
	for i := range spec.MatchConditions {
		conditions = append(conditions, (*matchconditions.MatchCondition)(&spec.MatchConditions[i]))
	}
	evaluator := compiler.CompileCondition(conditions, options, environment.NewExpressions)
	made := &compiled{compiler: compiler}
	made.matcher = matchconditions.NewMatcher(evaluator, spec.FailurePolicy, "policy", "mutate", policy.Name)
	options.HasPatchTypes = true
	for _, one := range spec.Mutations {
		switch {
		case one.JSONPatch != nil:
			accessor := &patch.JSONPatchCondition{Expression: one.JSONPatch.Expression}
			program := compiler.CompileMutatingEvaluator(accessor, options, environment.NewExpressions)
			if err := errors.Join(program.CompilationErrors()...); err != nil {
				return nil, err
			}
			made.patchers = append(made.patchers, patch.NewJSONPatcher(program))
		case one.ApplyConfiguration != nil:
			accessor := &patch.ApplyConfigurationCondition{Expression: one.ApplyConfiguration.Expression}
			program := compiler.CompileMutatingEvaluator(accessor, options, environment.NewExpressions)
			if err := errors.Join(program.CompilationErrors()...); err != nil {
				return nil, err
			}
			made.patchers = append(made.patchers, patch.NewApplyConfigurationPatcher(program))
		default:
			return nil, fmt.Errorf("a mutation of the type %q", one.PatchType)
		}
	}
	return made, nil
}

func (policy *compiled) mutate(pod *core.Pod) (*core.Pod, error) {
	kind, resource := core.SchemeGroupVersion.WithKind("Pod"), core.SchemeGroupVersion.WithResource("pods")
	pod.SetGroupVersionKind(kind)
	record := admission.NewAttributesRecord(pod, nil, kind, pod.Namespace, pod.Name, resource, "", admission.Create,
		&metav1.CreateOptions{}, false, nil)
	attributes := &admission.VersionedAttributes{Attributes: record, VersionedObject: pod, VersionedKind: kind}
	ctx := policy.compiler.CreateContext(context.Background())
	match := policy.matcher.Match(ctx, attributes, nil, nil)
	if match.Error != nil {
		return nil, match.Error
	}
	if !match.Matches {
		return nil, nil
	}
	interfaces := admission.NewObjectInterfacesFromScheme(scheme.Scheme)
	for _, patcher := range policy.patchers {
		patched, err := patcher.Patch(ctx, patch.Request{
			MatchedResource: resource, VersionedAttributes: attributes, ObjectInterfaces: interfaces,
			TypeConverter: applyconfigurations.NewTypeConverter(scheme.Scheme),
			Namespace:     &core.Namespace{ObjectMeta: metav1.ObjectMeta{Name: pod.Namespace}},
		}, apicel.RuntimeCELCostBudget)
		if err != nil {
			return nil, err
		}
		fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(patched)
		if err != nil {
			return nil, err
		}
		made := &core.Pod{}
		// what is no field of a pod is a mistake
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(fields, made, true); err != nil {
			return nil, err
		}
		made.SetGroupVersionKind(kind)
		attributes.VersionedObject = made
	}
	made, _ := attributes.VersionedObject.(*core.Pod)
	return made, nil
}
